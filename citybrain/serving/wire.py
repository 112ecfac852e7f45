"""What travels between a gateway and a replica: a frame of calls, a frame of answers.

A gateway never looks into a body. It sends the bytes as they came, with the name of the codec;
the replica decodes, answers in one batch, and encodes.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

NEXT = "next"
DROP = "drop"
"""Codecs of a call that asks for the next part of an answer, and of one that wants no more of it."""


class Call(NamedTuple):
    """One request's bytes."""

    codec: str
    """`oip`, `grpc` or `task`; `NEXT` and `DROP` are about an answer that has begun."""
    body: bytes
    header_length: int
    """Bytes of JSON before binary tensors (`Inference-Header-Content-Length`); -1: all JSON."""
    content_type: str
    request_id: str
    deadline: float = 0.0
    """When the caller gives up, by `time.perf_counter`, which all processes of a node share (on Linux
    it is CLOCK_MONOTONIC); 0: it did not say."""
    most: tuple[int, float] | None = None
    """Rows and units of the task's own that are reserved for it; none: as many as it likes."""
    parts: bool = False
    """Whether the answer may come in parts."""


class Reply(NamedTuple):
    """One answer's bytes, or an error (`code` set, `body` its message, `hint`)."""

    body: bytes
    header_length: int
    rows: int
    code: str
    hint: str
    amount: float = 0.0
    """Of the task's own unit: images, seconds of sound."""
    more: bool = False
    """Whether it is a part, and the next can be asked for, on the same lane."""


class Served(NamedTuple):
    """What came back for a frame, and the seconds that the replica waited and worked for it.

    Of its work, the model took `modelled`; the rest is decoding and encoding.
    """

    replies: list[Reply]
    waited: float = 0.0
    worked: float = 0.0
    modelled: float = 0.0
    lane: Any = None
    """In a gateway: the lane that it came by, if it came by one."""


class Departure(NamedTuple):
    """When a frame left, by the clock that its calls' deadlines are told by."""

    moment: float
    node: str = ""
    """Whose clock that is; empty: the clock of the node that the frame comes to."""

    @property
    def ours(self) -> bool:
        """Whether that is this node's clock."""
        return not self.node or self.node == node()


@cache
def node() -> str:
    """This node, since it was booted: as long as its clock runs."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def by_our_clock(calls: list[Call], left: Departure, arrived: float) -> list[Call]:
    """Their deadlines by this node's clock; the way from another node takes no time, for all we know."""
    if left.ours:
        return calls
    later = arrived - left.moment
    return [c._replace(deadline=c.deadline + later) if c.deadline else c for c in calls]


class FrameLost(Exception):
    """A frame's way ended before its answer; it may go again, since inference only reads."""

    def __init__(self, reason: str = "", *, begun: bool = False) -> None:
        super().__init__(reason)
        self.begun = begun
        """The replica ended while its model worked on this frame, as far as that was asked."""


OVER = "over_reserve"
"""The code of a call that has more rows or units than are reserved for it; the hint says how many."""


def error_reply(code: str, message: str, hint: str) -> Reply:
    """An error as a reply."""
    return Reply(message.encode(errors="replace"), -1, 0, code, hint)
