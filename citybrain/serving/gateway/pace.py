"""How fast a deployment answers, and so when to come back to a full line."""

from __future__ import annotations

import math

from citybrain.core.errors import Overloaded

SMOOTHING = 0.1
LEAST, MOST = 1, 30


class Pace:
    """Seconds that a call takes of a frame, smoothed over the last frames."""

    __slots__ = ("_seconds",)

    def __init__(self) -> None:
        self._seconds = 0.0

    def landed(self, took: float, calls: int) -> None:
        """A frame of so many calls was away for so long."""
        each = took / calls
        self._seconds += SMOOTHING * (each - self._seconds) if self._seconds else each

    def tell(self, error: Overloaded, waiting: int, frames: int) -> None:
        """When so many waiting calls will have left, so many frames being away at a time."""
        seconds = math.ceil(waiting * self._seconds / max(1, frames))
        error.retry_after = max(LEAST, min(MOST, seconds))
        error.hint = f"Try again in {error.retry_after} s, or ask for more replicas."
