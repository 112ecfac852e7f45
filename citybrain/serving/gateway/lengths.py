"""How many calls wait in each gateway: told in a small file once a second, read when somebody asks.

What waits is no fact of the ledger, which knows a call when it has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import orjson

log = logging.getLogger(__name__)
SECONDS = 1.0
STALE = 10.0
"""Seconds after which a file is one of a gateway that was killed."""
Lengths = dict[tuple[str, str], int]
"""Calls that wait, by algorithm and target; lines that are empty are left out."""


class LengthBook:
    """A gateway's file."""

    def __init__(self, folder: Path, lengths: Callable[[], Lengths]) -> None:
        self._path = folder / f"{os.getpid()}.json"
        self._lengths = lengths

    async def keep(self) -> None:
        """Write while anything waits, until cancelled; an empty house has no file."""
        try:
            while True:
                try:
                    self.write()
                except OSError:  # a full disk: the figure is missing, the calls are not
                    log.exception("the lengths of lines could not be told")
                await asyncio.sleep(SECONDS)
        finally:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)

    def write(self) -> None:
        """Tell how many wait now."""
        found = [(*whose, count) for whose, count in self._lengths().items()]
        if not found:
            self._path.unlink(missing_ok=True)
            return
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        fresh.write_bytes(orjson.dumps(found))
        fresh.rename(self._path)


def lengths_in(folder: Path) -> Lengths:
    """What waits in all gateways together."""
    found: Counter[tuple[str, str]] = Counter()
    for path in folder.glob("*.json"):
        with contextlib.suppress(OSError, orjson.JSONDecodeError):
            if time.time() - path.stat().st_mtime < STALE:
                for algorithm, target, count in orjson.loads(path.read_bytes()):
                    found[algorithm, target] += count
    return dict(found)
