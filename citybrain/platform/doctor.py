"""What `citybrain doctor` looks at."""

from __future__ import annotations

import importlib.metadata
import shutil
import stat
import sys
from dataclasses import dataclass

from citybrain.core.home import Home
from citybrain.core.settings import Settings
from citybrain.models.recipe import RECIPES
from citybrain.models.runtime import RUNTIMES
from citybrain.models.task import TASKS
from citybrain.platform.state import supervisor_alive

SAFE_PYTHON = (3, 11, 13)
LIBRARIES = ("mlflow", "ray", "torch", "onnxruntime", "transformers", "feast", "bentoml")


@dataclass(frozen=True)
class Finding:
    """One check: `✓` fine, `!` worth knowing, `✗` must be mended."""

    mark: str
    check: str
    found: str
    hint: str = ""


def examine(settings: Settings, home: Home) -> list[Finding]:
    """All checks, in the order in which a person would mend them."""
    return [
        _python(),
        *(_library(name) for name in LIBRARIES),
        _ultralytics(),
        Finding("✓", "runtimes", ", ".join(RUNTIMES)),
        Finding("✓", "tasks", ", ".join(TASKS)),
        Finding("✓", "recipes", ", ".join(RECIPES)),
        _disk(home),
        *_secrets(home),
        _running(settings, home),
    ]


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:3] < SAFE_PYTHON:
        hint = "3.11.13 or newer closes holes in tarfile (CVE-2025-4517)."
        return Finding("!", "python", found, hint)
    return Finding("✓", "python", found)


def _library(name: str) -> Finding:
    try:
        return Finding("✓", name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding("✗", name, "not installed", f"pip install {name}")


def _ultralytics() -> Finding:
    try:
        version = importlib.metadata.version("ultralytics")
    except importlib.metadata.PackageNotFoundError:
        hint = "Only to train vehicle-detector: pip install 'citybrain[ultralytics]' (AGPL-3.0)"
        return Finding("!", "ultralytics", "not installed", hint)
    return Finding("✓", "ultralytics", f"{version} (AGPL-3.0, training only)")


def _disk(home: Home) -> Finding:
    place = home.root if home.root.exists() else home.root.parent
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / (1 << 30)
    if free < 2:
        return Finding("✗", "disk", f"{free:.1f} GiB free", "Free at least 2 GiB for the home.")
    return Finding("✓", "disk", f"{free:.1f} GiB free")


def _secrets(home: Home) -> list[Finding]:
    paths = [home.admin_key, home.auditor_key, home.pepper, *home.pepper.parent.glob("ray*")]
    open_files = [
        path.name for path in paths if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    if open_files:
        hint = f"chmod 600 {' '.join(open_files)}"
        return [Finding("✗", "secrets", f"readable by others: {', '.join(open_files)}", hint)]
    return [Finding("✓", "secrets", "readable by their owner only")]


def _running(settings: Settings, home: Home) -> Finding:
    if supervisor_alive(home):
        return Finding("✓", "platform", f"runs, port {settings.port}")
    return Finding("!", "platform", "does not run", "Start it: citybrain up --detach")
