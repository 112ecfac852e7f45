"""How Ray Serve follows the load of a deployment that may have several replicas, or none.

Serve sees calls by handle only, and nearly all come over lanes. So a replica tells how many frames
it had, and the policy below asks for as many replicas as share them at the wanted load.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from citybrain.core.schemas.running import SLEEP_AFTER, Scaling

LOAD = "load"
REPORT_SECONDS = 1.0
WINDOW_SECONDS = 3.0
"""Seconds between a replica's reports, and over which Serve averages what they say."""


class Load:
    """How many frames a replica has, waiting or worked on, on average since it was last asked."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._frames = 0
        self._seconds = 0.0
        """Frames times the seconds that they were there."""
        self._since = self._last = clock()

    @contextmanager
    def frame(self) -> Iterator[None]:
        """A frame is there inside the block."""
        self.change(1)
        try:
            yield
        finally:
            self.change(-1)

    def change(self, by: int) -> None:
        """So many frames more are there from now on."""
        with self._lock:
            self._advance()
            self._frames += by

    def take(self) -> float:
        """The average, which begins anew."""
        with self._lock:
            now = self._advance()
            lasted = now - self._since
            average = self._seconds / lasted if lasted > 0 else float(self._frames)
            self._seconds, self._since = 0.0, now
        return round(average, 3)  # 2.0000001 frames must not ask for a third replica

    def _advance(self) -> float:
        now = self._clock()
        self._seconds += self._frames * (now - self._last)
        self._last = now
        return now


def by_load(context: Any) -> tuple[float, dict[str, Any]]:
    """Serve's policy: the replicas' frames, and those that wait for one, at the wanted load each.

    Serve itself applies the bounds and the delays, and starts the first replica at once.
    """
    if context.current_num_replicas == 0:
        return context.target_num_replicas, {}
    loads = (context.aggregated_metrics or {}).get("load", {})
    frames = round(sum(loads.values()) + (context.total_queued_requests or 0.0), 3)
    return frames / context.config.target_ongoing_requests, {}


def autoscaling(scaling: Scaling, *, first: bool) -> dict[str, Any]:
    """What Serve is told of a range.

    The `first` start has a replica in every case: a version that cannot load must not take over
    from one that can. Later a change of the range moves nothing that lies within it.
    """
    found = {
        "min_replicas": scaling.min_replicas,
        "max_replicas": scaling.max_replicas,
        "target_ongoing_requests": scaling.target_load,
        "upscale_delay_s": scaling.up_after,
        "downscale_delay_s": scaling.down_after,
        "metrics_interval_s": REPORT_SECONDS,
        "look_back_period_s": WINDOW_SECONDS,
        "policy": {"policy_function": f"{__name__}:{by_load.__name__}"},
    }
    if first:
        found["initial_replicas"] = max(1, scaling.min_replicas)
    if scaling.min_replicas == 0:
        found["downscale_to_zero_delay_s"] = scaling.sleep_after or SLEEP_AFTER
    return found
