"""What `citybrain doctor` looks at."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from dataclasses import dataclass
from typing import Any

from citybrain.core.home import Home
from citybrain.core.settings import Settings
from citybrain.models.recipe import RECIPES
from citybrain.models.runtime import RUNTIMES
from citybrain.models.task import TASKS
from citybrain.platform.children import marked
from citybrain.platform.listeners import doors_at
from citybrain.platform.safety import faults, readable, running_faults
from citybrain.platform.state import read_state, supervisor_alive

SAFE_PYTHON = (3, 11, 13)
LIBRARIES = ("mlflow", "ray", "torch", "onnxruntime", "transformers", "feast", "bentoml")
FINE = {
    "doors": "loopback, TLS, or a named proxy before them",
    "files": "the home and its secrets are their owner's alone",
    "environment": "no variable that opens what we close",
    "listeners": "nothing listens for others but the doors",
    "settings": "Ray, MLflow and Feast run closed",
}


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
        *_safety(settings, home),
        _running(home),
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


def _safety(settings: Settings, home: Home) -> list[Finding]:
    """Whether it may serve as it is set up, and what is wrong with what runs."""
    said = faults(settings, home)
    state = read_state(home) if supervisor_alive(home) else {}
    checks = ["doors", "files", "environment"]
    if state:
        said += running_faults(marked(state["mark"]), _doors(state))
        checks += ["listeners", "settings"]
    found = []
    for check in checks:
        wrong = [fault for fault in said if fault.check == check]
        found += [Finding("✗", check, fault.why, fault.hint) for fault in wrong]
        if not wrong:
            found.append(Finding("✓", check, FINE[check]))
    if home.root.exists() and (loose := readable(home)):
        text = f"{len(loose)} in the home could be read by others, if its folder were open"
        found.append(Finding("!", "files", text, f"chmod -R go-rwx {home.root}"))
    return found


def _doors(state: dict[str, Any]) -> set[tuple[str, int]]:
    said = state["settings"]
    ports = (int(said[f"CITYBRAIN_{name}"]) for name in ("PORT", "GRPC_PORT"))
    return doors_at(said["CITYBRAIN_HOST"], *ports)


def _running(home: Home) -> Finding:
    if supervisor_alive(home):
        url = read_state(home).get("url", "")
        return Finding("✓", "platform", f"runs, {url}" if url else "is being started")
    return Finding("!", "platform", "does not run", "Start it: citybrain up --detach")
