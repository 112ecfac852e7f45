"""Environments of the peers that must not share the platform's: made once, kept in a cache."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path


def own_environment(cache: Path, name: str, packages: list[str]) -> Path:
    """The Python of an environment with these packages, made at the first use."""
    folder = cache / name
    python = folder / "bin" / "python"
    done = folder / "packages.txt"
    wanted = "\n".join(packages)
    if done.exists() and done.read_text() == wanted:
        return python
    print(f"installing {', '.join(packages)} into {name} of the cache …", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv:
        make = [uv, "venv", "--quiet", "--python", sys.executable, str(folder)]
        install = [uv, "pip", "install", "--quiet", "--python", str(python), *packages]
    else:
        make = [sys.executable, "-m", "venv", str(folder)]
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                   *packages]  # fmt: skip
    for command in (make, install):
        subprocess.run(command, check=True, timeout=1200)
    done.write_text(wanted)
    return python


def versions(python: Path, names: list[str]) -> dict[str, str]:
    """Installed versions, asked of that Python."""
    code = (
        "import sys, json\nfrom importlib.metadata import version\n"
        "print(json.dumps({n: version(n) for n in sys.argv[1:]}))"
    )
    found = subprocess.run(
        [str(python), "-c", code, *names], capture_output=True, text=True, check=True, timeout=60
    )
    return dict(json.loads(found.stdout))
