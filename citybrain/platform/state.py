"""`HOME/run/platform.json`: what the supervisor started, for clients and for `status`."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from citybrain import __version__
from citybrain.core.home import Home, write_private
from citybrain.core.schemas import PlatformStatus
from citybrain.platform.tracking.server import PREFIX
from citybrain.registry.tracker import tracking_uri

if TYPE_CHECKING:
    from citybrain.platform.wiring import ControlPlane


def state_file(home: Home) -> Path:
    """Where the supervisor writes."""
    return home.run / "platform.json"


def read_state(home: Home) -> dict[str, Any]:
    """What the supervisor wrote last; empty when there is nothing."""
    try:
        found: dict[str, Any] = json.loads(state_file(home).read_text())
    except (OSError, ValueError):
        return {}
    return found


def write_state(home: Home, state: dict[str, Any]) -> None:
    """Replace the file whole."""
    write_private(state_file(home), json.dumps(state, indent=1).encode())


def is_stopping(home: Home) -> bool:
    """Whether the supervisor ends the whole platform, and not one process of it."""
    return bool(read_state(home).get("stopping"))


def ready_file(home: Home, process_id: int) -> Path:
    """Where a gateway says that it takes connections."""
    return home.run / f"{process_id}.ready"


def say_ready(home: Home, process_id: int) -> None:
    """Say so; the supervisor removes it when the process has ended."""
    ready_file(home, process_id).touch()


def is_alive(process_id: int, created: float) -> bool:
    """Whether this very process lives: the id and its start time agree."""
    try:
        process = psutil.Process(process_id)
        return abs(process.create_time() - created) < 2 and process.status() != "zombie"
    except psutil.Error:
        return False


def supervisor_alive(home: Home) -> bool:
    """Whether a supervisor of this home lives."""
    state = read_state(home)
    return bool(state) and is_alive(state.get("supervisor", 0), state.get("created", 0.0))


def platform_status(plane: ControlPlane) -> PlatformStatus:
    """What runs, as the control process sees it."""
    home = plane.truths.home
    state = read_state(home)
    deployments = plane.reconciler.deployments()
    ray_up = plane.reconciler.connected
    return PlatformStatus(
        version=__version__,
        url=state.get("url", ""),
        grpc=state.get("grpc", ""),
        home=str(home.root),
        mlflow=tracking_uri(home.mlflow),
        mlflow_server=state.get("url", "") + PREFIX if home.mlflow_wanted.exists() else "",
        started_at=datetime.fromisoformat(state.get("started_at", "1970-01-01T00:00:00+00:00")),
        ray="up" if ray_up else "starting",
        ready=ray_up and all(d.state in ("running", "failed", "removing") for d in deployments),
        deployments=deployments,
        processes=state.get("processes", {}),
    )
