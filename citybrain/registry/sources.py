"""Addresses that `register` takes besides files: MLflow's, hubs on the internet, other servers.

Fetching copies bytes and believes none of them; what was fetched goes through admission like an
upload. Hubs can be mirrors: their addresses are settings. A model on another server stays there; what
is fetched is what it tells of itself.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from citybrain.core.errors import BadPackage, InvalidInput, TooLarge, Unavailable
from citybrain.core.settings import IntakeSettings
from citybrain.models.remote import PORTS, REMOTE_FILE, parse_address
from citybrain.models.remote_server import RemoteServer
from citybrain.registry.tracker import folder_at

HF_FILES = re.compile(r"[\w.-]+\.(json|safetensors|txt|model)")
"""Of a model's folder on the hub: its top level, and nothing that could be a pickle or code."""
MAX_HUB_FILES = 50
SCHEMES = (
    "runs:/", "models:/", "hf:", "ultralytics:", "torchvision:", *(f"{name}://" for name in PORTS),
)  # fmt: skip


def is_address(text: str) -> bool:
    """Whether this is an address of a known kind, and not a path."""
    return text.startswith(SCHEMES)


def fetch(
    address: str, work: Path, client: Any, settings: IntakeSettings
) -> tuple[Path, dict[str, Any]]:
    """Copy what lies at an address into `work`; the file or folder, and what it tells for the card."""
    work.mkdir(parents=True, exist_ok=True)
    scheme, _, rest = address.partition(":")
    if scheme in ("runs", "models"):
        return folder_at(client, address), {}
    if scheme == "hf":
        return _from_hf(rest, work, settings)
    if scheme == "ultralytics":
        name = _checked(rest, r"[\w.-]{1,80}\.pt", "ultralytics:yolo11n.pt")
        url = f"{settings.ultralytics_url.rstrip('/')}/{name}"
        return _download(url, work / name, settings), {"licence": "AGPL-3.0"}
    if scheme == "torchvision":
        name = _checked(rest, r"\w{1,80}", "torchvision:mobilenet_v3_small")
        url = settings.torchvision_url.rstrip("/") + _torchvision_path(name)
        target = work / url.rpartition("/")[2]
        return _download(url, target, settings), {"architecture": f"torchvision:{name}"}
    if scheme in PORTS:
        return _from_server(address, work)
    raise InvalidInput(
        f"{address[:80]!r} is not an address that is known.", hint=f"Known: {', '.join(SCHEMES)}."
    )


def _checked(name: str, pattern: str, example: str) -> str:
    if not re.fullmatch(pattern, name):
        raise InvalidInput(f"{name[:80]!r} is not a name here.", hint=f"Like: {example}")
    return name


def _from_hf(name: str, work: Path, settings: IntakeSettings) -> tuple[Path, dict[str, Any]]:
    name, _, revision = name.partition("@")
    _checked(name, r"[\w.-]{1,96}/[\w.-]{1,96}", "hf:org/name or hf:org/name@revision")
    revision = _checked(revision or "main", r"[\w.-]{1,80}", "a branch, tag or commit")
    base = settings.hf_url.rstrip("/")
    told = _json(f"{base}/api/models/{name}/revision/{quote(revision)}", settings)
    files = [str(item.get("rfilename", "")) for item in told.get("siblings", [])]
    wanted = [file for file in files if HF_FILES.fullmatch(file)]
    if "config.json" not in wanted or not any(f.endswith(".safetensors") for f in wanted):
        raise BadPackage(
            f"{name} holds no config.json with .safetensors weights.",
            hint="Weights as pickles (.bin) are not fetched.",
        )
    if len(wanted) > MAX_HUB_FILES:
        raise TooLarge(f"{name} holds more than {MAX_HUB_FILES} files.")
    folder = work / name.replace("/", "--")
    folder.mkdir()
    for file in wanted:
        _download(f"{base}/{name}/resolve/{quote(revision)}/{quote(file)}", folder / file, settings)
    card = told.get("cardData") or {}
    lineage = {"source": f"hf:{name}@{told.get('sha') or revision}"}
    licence = card.get("license") if isinstance(card.get("license"), str) else ""
    return folder, {"licence": licence, "lineage": lineage}


def _from_server(address: str, work: Path) -> tuple[Path, dict[str, Any]]:
    server = RemoteServer(parse_address(address))
    try:
        model = server.read()
    finally:
        server.close()
    target = work / REMOTE_FILE
    target.write_text(model.model_dump_json(indent=1), encoding="utf-8")
    return target, {"lineage": {"source": model.address}}


def _torchvision_path(name: str) -> str:
    """The path of an architecture's best weights, asked of the installed library in a process."""
    code = (
        "import sys, urllib.parse, torchvision.models as m\n"
        "print(urllib.parse.urlparse(m.get_model_weights(sys.argv[1]).DEFAULT.url).path)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, name], capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise InvalidInput(f"torchvision has no weights called {name}.")
    return done.stdout.strip().splitlines()[-1]


def _json(url: str, settings: IntakeSettings) -> dict[str, Any]:
    try:
        answer = httpx.get(url, timeout=settings.fetch_seconds, follow_redirects=True)
        answer.raise_for_status()
        found = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        raise _unreachable(url, error) from error
    if not isinstance(found, dict):
        raise _unreachable(url, ValueError("not a description of a model"))
    return found


def _download(url: str, target: Path, settings: IntakeSettings) -> Path:
    size = 0
    try:
        with (
            httpx.stream(
                "GET", url, timeout=settings.fetch_seconds, follow_redirects=True
            ) as answer,
            target.open("xb") as file,
        ):
            answer.raise_for_status()
            for chunk in answer.iter_bytes(1 << 20):
                size += len(chunk)
                if size > settings.disk:
                    raise TooLarge(f"{url} holds more than {settings.disk >> 20} MB.")
                file.write(chunk)
    except httpx.HTTPError as error:
        raise _unreachable(url, error) from error
    return target


def _unreachable(url: str, error: Exception) -> Unavailable:
    host = url.split("/")[2]
    reason = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
    return Unavailable(
        f"{host} gave no model: {reason}",
        hint="Without internet: copy the file or folder here, and register its path.",
    )
