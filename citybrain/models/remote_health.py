"""Whether the server of a remote model answers, so that calls need not wait to find out.

It is asked every few seconds, and every call tells, too. While it is silent calls are refused at
once, and a thread asks it again and again, until it answers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from citybrain.core.errors import RemoteDown

log = logging.getLogger(__name__)
PAUSES = (0.0, 1.0, 2.0, 5.0)
"""Seconds before the first look at a silent server, the next ones, and all others."""


class RemoteHealth:
    """What is known of one server; `ask` raises RemoteDown unless it has the model ready."""

    def __init__(
        self, ask: Callable[[], None], what: str, pauses: tuple[float, ...] = PAUSES
    ) -> None:
        self._ask = ask
        self._what = what
        self._pauses = pauses
        self._down: RemoteDown | None = None
        self._under_way = 0
        self._answered = 0.0
        self._lock = threading.Lock()
        self._closed = threading.Event()

    @contextmanager
    def call(self) -> Iterator[None]:
        """Around a call to the server: RemoteDown at once while it is known to be silent."""
        self._refuse()
        with self._lock:
            self._under_way += 1
        try:
            yield
        except RemoteDown as error:
            self._fell_silent(error)
            raise
        finally:
            with self._lock:
                self._under_way -= 1
        self._answered = time.monotonic()

    def check(self) -> None:
        """Ask it, or take what the thread knows that asks a silent one; RemoteDown says that it is."""
        began = time.monotonic()
        if self._down is None:
            try:
                self._ask()
            except RemoteDown as error:
                # At work for us, it may be too busy to say so: those calls will tell.
                if not self._under_way and self._answered < began:
                    self._fell_silent(error)
        self._refuse()

    def close(self) -> None:
        """Ask no more."""
        self._closed.set()

    def _refuse(self) -> None:
        if down := self._down:
            raise RemoteDown(down.message, hint=down.hint)

    def _fell_silent(self, error: RemoteDown) -> None:
        with self._lock:
            if self._down is not None:
                return
            self._down = error
        log.warning("%s is silent: %s", self._what, error.__cause__ or error.message)
        threading.Thread(target=self._watch, name="remote-health", daemon=True).start()

    def _watch(self) -> None:
        pauses = iter(self._pauses)
        while not self._closed.wait(next(pauses, self._pauses[-1])):
            try:
                self._ask()
            except RemoteDown:
                continue
            except Exception:
                log.exception("%s could not be asked", self._what)
                continue
            with self._lock:
                self._down = None
            log.warning("%s answers again", self._what)
            return
