"""How often somebody may try to sign in, and how many try at once."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from fastapi import Request

from citybrain.core.errors import Overloaded

Found = TypeVar("Found")
WORKERS = 2
"""Comparing a password takes 19 MiB and a core for a moment: two at a time harm nobody."""
MOST_WAITING = 20


class Attempts:
    """Counts wrong tries by address in a sliding window; in memory, so a restart forgives."""

    def __init__(self, most: int = 10, window: float = 60.0, addresses: int = 10_000) -> None:
        self._most = most
        self._window = window
        self._addresses = addresses
        self._failed: dict[str, deque[float]] = {}

    def wait(self, address: str) -> int:
        """Seconds until this address may try again; 0: now."""
        failed = self._failed.get(address, deque())
        while failed and failed[0] <= time.monotonic() - self._window:
            failed.popleft()
        if not failed:
            self._failed.pop(address, None)
        return (
            0 if len(failed) < self._most else int(failed[0] + self._window - time.monotonic()) + 1
        )

    def fail(self, address: str) -> None:
        """Note a wrong try."""
        if address not in self._failed and len(self._failed) >= self._addresses:
            self._failed.pop(next(iter(self._failed)))
        self._failed.setdefault(address, deque()).append(time.monotonic())


class Crowd:
    """Everybody at the door of one application."""

    def __init__(self) -> None:
        self.attempts = Attempts()
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="sign-in")
        self._waiting = 0

    async def one_by_one(self, check: Callable[..., Found], *shown: object) -> Found:
        """Check what somebody shows, on few threads; Overloaded when too many wait."""
        if self._waiting >= MOST_WAITING:
            raise Overloaded("Too many people are signing in.", hint="Try again in a moment.")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._workers, check, *shown)
        finally:
            self._waiting -= 1


def crowd(request: Request) -> Crowd:
    """Those at the door of this application."""
    state = request.app.state
    if not hasattr(state, "crowd"):
        state.crowd = Crowd()
    found: Crowd = state.crowd
    return found
