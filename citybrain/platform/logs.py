"""Logs of processes and replicas: bounded files under the home."""

from __future__ import annotations

import logging
import os
import re
from logging.handlers import RotatingFileHandler
from pathlib import Path

from citybrain.core.home import Home
from citybrain.core.schemas import Deployment
from citybrain.serving.shared import SHARED

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
LOG_BYTES = 10 << 20
"""Of one log file, of which two older ones are kept; and of what a process prints."""
TAIL_BYTES = 256 << 10


def log_to(path: Path) -> None:
    """Send this process's log to a file of at most 10 MB, with two older ones kept."""
    handler = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=2)
    handler.setFormatter(logging.Formatter(FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy in ("httpx", "httpcore", "alembic", "mlflow", "uvicorn.access", "ray"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def bound_outputs(folder: Path) -> None:
    """Cut what processes print (`*.out`), keeping its end in `*.out.1`; they append, and go on."""
    for path in folder.glob("*.out"):
        if path.stat().st_size > LOG_BYTES:
            with path.open("rb+") as file:
                file.seek(-LOG_BYTES // 2, os.SEEK_END)
                path.with_suffix(".out.1").write_bytes(file.read())
                file.truncate(0)


def replica_log(home: Home, deployment: Deployment, lines: int) -> list[str]:
    """The end of the newest replica logs of a deployment, as Ray Serve wrote them."""
    folder = home.ray / "session_latest" / "logs" / "serve"
    app = f"{SHARED}_" if deployment.shared else f"{deployment.algorithm}.{deployment.target}.v"
    pattern = f"replica_{app}*"
    found = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime)
    text: list[str] = []
    for path in found[-2:]:
        text += tail(path, lines)
    return text[-lines:]


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a text file, without colours."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in text.splitlines()[-lines:]]
