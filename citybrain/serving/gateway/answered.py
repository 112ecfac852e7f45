"""A call's answer, as every door gets it from the gateway."""

from __future__ import annotations

from typing import NamedTuple

from citybrain.serving.gateway.snapshot import Route
from citybrain.serving.gateway.waiting import Waiting
from citybrain.serving.wire import Reply


class Answered(NamedTuple):
    """A call's answer, and where it came from."""

    reply: Reply
    route: Route
    timing: bytes
    """Where its time went, as `Server-Timing` says it."""
    instead: str = ""
    """The deployment that was asked first and failed; empty: the one that answered."""
    limits: tuple[tuple[bytes, bytes], ...] = ()
    """What is left of the limits that it counted against."""
    request_id: str = ""
    """The call's, where it is not the one that its door gave it."""
    level: str = ""
    """How sensitive it is."""
    again: bool = False
    """Whether this is the answer that the same call had before."""
    waiting: Waiting | None = None
    """The call, where what came is the first part of its answer."""

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """What an HTTP answer says besides the body."""
        mark = ((b"x-fallback", self.route.target.encode()),) if self.instead else ()
        level = (b"x-data-level", self.level.encode())
        again = ((b"idempotent-replayed", b"true"),) if self.again else ()
        return (
            (b"server-timing", self.timing), level, *mark, *again, *self.limits,
            *self.route.headers,
        )  # fmt: skip
