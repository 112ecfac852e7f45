"""A call on its way through the gateway."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from citybrain.serving.wire import Call, Reply

if TYPE_CHECKING:
    from citybrain.serving.gateway.coalescer import Flight


class Outcome(Protocol):
    """Where a call's reply goes, once; a future is one."""

    def done(self) -> bool:
        """Whether nobody waits any more."""

    def set_result(self, reply: Reply, /) -> object:
        """Take the reply, or its first part; called on the event loop, and must not raise."""


@dataclass(slots=True)
class Waiting:
    """A call, who waits for its reply, and where its time went."""

    call: Call
    outcome: Outcome
    record: object
    department: str = ""
    urgent: bool = False
    gone: Callable[[], bool] | None = None
    """Whether the caller has hung up."""
    deadline: float = math.inf
    """When the caller gives up, on the clock of `time.perf_counter`."""
    began: float = field(default_factory=time.perf_counter)
    left: float = 0.0
    """When its frame left; seconds that the replica waited and worked for it, and its model took."""
    waited: float = 0.0
    worked: float = 0.0
    modelled: float = 0.0
    lane: Any = None
    """The lane that its reply came by: the rest of an answer in parts is asked for there."""
    timer: asyncio.TimerHandle | None = None
    settled: bool = False
    flight: Flight | None = field(default=None, init=False)
    level: str = ""
    """How sensitive the answer is."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """What the answer says of the limits that the call counts against."""
    steps: tuple[tuple[str, float], ...] = ()
    """A pipeline's steps and the seconds that each took."""

    @property
    def size(self) -> int:
        """Bytes of the call."""
        return len(self.call.body)

    @property
    def left_alone(self) -> bool:
        """Whether nobody waits for its reply any more."""
        return self.settled or self.outcome.done() or (self.gone is not None and self.gone())

    def timing(self) -> bytes:
        """The `Server-Timing` header: milliseconds in the queue, on the way, in the replica."""
        total = time.perf_counter() - self.began
        if self.steps:
            steps = [b"%s;dur=%.2f" % (name.encode(), took * 1e3) for name, took in self.steps]
            return b", ".join([*steps, b"total;dur=%.2f" % (total * 1e3)])
        queue = max(0.0, self.left - self.began)
        way = max(0.0, total - queue - self.waited - self.worked)
        parts = (queue, way, self.waited, self.worked, total)
        named = b"queue;dur=%.2f, way;dur=%.2f, wait;dur=%.2f, work;dur=%.2f, total;dur=%.2f"
        return named % tuple(part * 1e3 for part in parts)
