"""Who goes next when calls wait: emergencies first, then departments in turn.

A department that floods an algorithm waits behind itself; the others do not notice. Emergency calls
(made under a grant for the purpose `emergency`: 110, 119, 120) go first, but three at a time: then one
other call goes, so that nobody starves.

When the places are taken, a department that has fewer of them than another gets one: the newest call of
the longest line gives its own up. Emergencies get them from the other calls, up to three quarters of all;
the last quarter is the others', by the same rule.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from citybrain.core.errors import Overloaded
from citybrain.serving.gateway.waiting_room import WaitingRoom

EMERGENCY = "emergency"
IN_A_ROW = 3


class Queued(Protocol):
    """What can wait here."""

    department: str
    urgent: bool

    @property
    def size(self) -> int:
        """Bytes that it takes."""


Item = TypeVar("Item", bound=Queued)


class Line(Generic[Item]):
    """The calls of one department, and the bytes that they take."""

    __slots__ = ("calls", "queue", "size")

    def __init__(self, queue: FairQueue[Item]) -> None:
        self.queue = queue
        self.calls: deque[Item] = deque()
        self.size = 0


class _Turns(Generic[Item]):
    """Departments in turn; each has its own line."""

    __slots__ = ("lines", "turns")

    def __init__(self) -> None:
        self.lines: dict[str, Line[Item]] = {}
        self.turns: deque[Line[Item]] = deque()
        """Those that are not empty."""

    def longest(self) -> Line[Item] | None:
        return max(self.turns, key=lambda line: len(line.calls), default=None)


class FairQueue(Generic[Item]):
    """A bounded queue of one algorithm's calls in one gateway."""

    def __init__(self, most: int, most_of_a_department: int, room: WaitingRoom) -> None:
        self._most = most
        self._most_of_a_department = most_of_a_department
        self._room = room
        self._urgent: _Turns[Item] = _Turns()
        self._others: _Turns[Item] = _Turns()
        self._size = 0
        self._urgents = 0
        self._row = 0
        room.queues.add(self)

    def __len__(self) -> int:
        return self._size

    def push(self, item: Item) -> Sequence[Item]:
        """Queue a call; Overloaded when too many wait already, of all or of its department.

        Returns the calls that gave their places up for it.
        """
        turns = self._urgent if item.urgent else self._others
        line = turns.lines.get(item.department)
        if line is None:  # it stays: departments are not many, and most come again
            line = turns.lines[item.department] = Line(self)
        calls, size, room = line.calls, item.size, self._room
        if len(calls) >= self._most_of_a_department:
            raise Overloaded(
                f"{self._most_of_a_department} calls of {item.department} to this algorithm "
                "are waiting."
            )
        gone: Sequence[Item] = ()
        if self._size >= self._most or room.used + size > room.most:
            gone = self._make_place(item, line, size)
        if not calls:
            turns.turns.append(line)
        calls.append(item)
        line.size += size
        room.used += size
        self._size += 1
        if item.urgent:
            self._urgents += 1
            room.urgent += size
        return gone

    def _make_place(self, item: Item, own: Line[Item], size: int) -> list[Item]:
        """Send those away who have more than their share, where `item` has less; else Overloaded."""
        longest = self._longest_for(item, own) if self._size >= self._most else None
        gone: list[Item] = self._room.make(size, own.size, urgent=item.urgent)
        if longest is not None and self._size >= self._most:
            gone.append(self.drop(longest))
        return gone

    def _longest_for(self, item: Item, own: Line[Item]) -> Line[Item]:
        others = self._size - self._urgents
        kept = self._most // (IN_A_ROW + 1)  # places of the calls that are no emergencies
        if item.urgent and others > kept:
            found = self._others.longest()
        elif not item.urgent and others < kept:
            found = self._urgent.longest()
        else:
            found = (self._urgent if item.urgent else self._others).longest()
            if found is not None and len(own.calls) + 1 >= len(found.calls):
                found = None
        if found is None:
            raise Overloaded(f"{self._most} calls of this algorithm are waiting.")
        return found

    def others(self) -> Iterable[Line[Item]]:
        """The lines that are not of emergencies."""
        return self._others.turns

    def drop(self, line: Line[Item]) -> Item:
        """Take the newest call out of a line."""
        item = line.calls.pop()
        if not line.calls:
            (self._urgent if item.urgent else self._others).turns.remove(line)
        self._left(item, line, item.size)
        return item

    def sweep(self, over: Callable[[Item], bool]) -> list[Item]:
        """Take out all calls that are `over` already, wherever they stand."""
        found: list[Item] = []
        for turns in (self._urgent, self._others):
            for line in list(turns.turns):
                calls, line.calls = line.calls, deque()
                for item in calls:
                    if over(item):
                        self._left(item, line, item.size)
                        found.append(item)
                    else:
                        line.calls.append(item)
                if not line.calls:
                    turns.turns.remove(line)
        return found

    def take(self, room: float) -> Item | None:
        """Let the next one go, if it takes no more than so many bytes."""
        urgent, others = self._urgent.turns, self._others.turns
        turns = urgent if urgent and (self._row < IN_A_ROW or not others) else others
        if not turns:
            return None
        line = turns[0]
        item = line.calls[0]
        if (size := item.size) > room:
            return None
        self._row = self._row + 1 if turns is urgent else 0
        line.calls.popleft()
        if not line.calls:
            turns.popleft()
        elif len(turns) > 1:
            turns.rotate(-1)
        self._left(item, line, size)
        return item

    def _left(self, item: Item, line: Line[Item], size: int) -> None:
        line.size -= size
        self._size -= 1
        self._room.used -= size
        if item.urgent:
            self._urgents -= 1
            self._room.urgent -= size


def displaced() -> Overloaded:
    """What a call is told that gave its place up."""
    return Overloaded(
        "The line is full, and this call gave its place to one of another department.",
        hint="Try again in a second, or ask for more replicas.",
    )
