"""What calls may take of a gateway's memory: while they wait, and while their bodies come in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

from citybrain.core.errors import CityBrainError, Overloaded

if TYPE_CHECKING:
    from citybrain.serving.gateway.fair_queue import FairQueue, Line


class Sender(Protocol):
    """A connection that a body comes in on."""

    def refuse(self, error: CityBrainError) -> None:
        """Answer that, forget the body, and hang up."""


class WaitingRoom:
    """Bytes of the calls that wait in one gateway, in the lines of all its algorithms.

    Bodies that are not whole yet may take as many again.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0
        self.urgent = 0
        """Of these: emergencies."""
        self.arriving = 0
        self._senders: dict[Sender, int] = {}
        self.queues: WeakSet[FairQueue[Any]] = WeakSet()

    def arrive(self, sender: Sender, size: int) -> None:
        """Count a piece of a body; whose body began first gives way when they take too much.

        Overloaded if that is this one.
        """
        self._senders[sender] = self._senders.get(sender, 0) + size
        self.arriving += size
        while self.arriving > self.most:
            first = next(iter(self._senders))
            error = Overloaded(
                "This gateway holds as many bytes of bodies that are not whole as it takes.",
                hint="Send the body faster.",
            )
            if first is sender:
                raise error
            first.refuse(error)

    def arrived(self, sender: Sender) -> None:
        """Its body is whole, or will never be."""
        self.arriving -= self._senders.pop(sender, 0)

    def has(self, size: int) -> bool:
        """Whether a call of so many bytes finds room, without another giving way."""
        return self.used + size <= self.most

    def make(self, size: int, own: int, *, urgent: bool) -> list[Any]:
        """Find room for a call: the newest of those that take most are sent away, and returned.

        Emergencies find it up to three quarters of all; other calls where somebody's line would
        still take more than their own, which takes `own` bytes. Else Overloaded.
        """
        needed = self.used + size - self.most
        if needed <= 0:
            return []
        biggest = max(self._others(), key=lambda line: line.size, default=None)
        if urgent:
            found = self.urgent + size <= self.most * 3 // 4 and self.used - self.urgent >= needed
        else:
            found = biggest is not None and biggest.size - needed >= own + size
        if not found:
            raise Overloaded(f"{self.used} bytes of calls are waiting in this gateway.")
        gone: list[Any] = []
        while self.used + size > self.most:
            line = max(self._others(), key=lambda line: line.size)
            gone.append(line.queue.drop(line))
        return gone

    def _others(self) -> Iterator[Line[Any]]:
        for queue in self.queues:
            yield from queue.others()
