"""Events: what happened by itself and somebody should know, each one JSON object in a line of the log."""

from __future__ import annotations

import logging

import orjson

MARK = "event "


def tell(log: logging.Logger, event: str, *, level: int = logging.INFO, **facts: object) -> None:
    """Write an event; what collects logs finds it by the mark, and needs to parse no sentence."""
    line = orjson.dumps({"event": event, **facts}, default=str)
    log.log(level, "%s%s", MARK, line.decode())
