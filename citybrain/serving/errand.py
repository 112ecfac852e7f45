"""A frame in a replica: when it came, when its turn begins, and whether anybody still waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable

from citybrain.core.errors import Cancelled
from citybrain.models.runtime import Stop
from citybrain.serving.wire import Reply, error_reply


class Errand(Stop):
    """One frame; `ask` gives it up."""

    def __init__(self, arrived: float = 0.0, begun: Callable[[], None] | None = None) -> None:
        super().__init__()
        self.arrived = arrived or time.perf_counter()
        self._begun = begun

    def begin(self) -> float:
        """The model is free for it now: tell who wants to know; the moment."""
        if self._begun is not None:
            self._begun()
        return time.perf_counter()


def given_up(calls: int) -> list[Reply]:
    """The answer to a frame that nobody waits for any more."""
    return [error_reply(Cancelled.code, "Nobody waits for this call any more.", "")] * calls
