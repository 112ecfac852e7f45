"""Ends a process that hangs in a call into Ray."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)


class Watchdog:
    """Ends this process when a call into Ray does not come back; the supervisor starts it again.

    Ray's client waits without limit for a head that is gone, in calls that take no time-out.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._until = math.inf

    def start(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @contextmanager
    def allow(self, seconds: float) -> Iterator[None]:
        """The block inside may take this long."""
        self._until = time.monotonic() + seconds
        try:
            yield
        finally:
            self._until = math.inf

    def _watch(self) -> None:
        while True:
            time.sleep(1.0)
            if time.monotonic() > self._until:
                log.error("%s is stuck; this process ends and is started again", self._what)
                logging.shutdown()
                os._exit(70)  # EX_SOFTWARE; a thread that hangs in C cannot be stopped otherwise
