"""What a call takes from its department's limits, before it goes and after it was answered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from citybrain.core.errors import QuotaExceeded, RateLimited
from citybrain.serving.metering.book import MICRO, Book, Meter, Room, Short
from citybrain.storage.journal import JournalWriter, Settled

if TYPE_CHECKING:
    from citybrain.serving.gateway.permits import Permit

GUESSES = 4096
Pairs = tuple[tuple[bytes, bytes], ...]


@dataclass(slots=True)
class Taken:
    """What is reserved for one call."""

    meters: tuple[Meter, ...]
    amounts: list[int]
    room: Room
    whose: tuple[str, str] = field(default=("", ""))

    @property
    def headers(self) -> Pairs:
        """What the tightest limit has left (RateLimit header fields for HTTP, IETF draft)."""
        meter, limit, left, resets = self.room
        name = meter.name.encode()
        return (
            (b"ratelimit", b'"%s";r=%d;t=%d' % (name, max(0, left), resets)),
            (b"ratelimit-policy", b'"%s";q=%d' % (name, limit)),
        )

    @property
    def most(self) -> tuple[int, float]:
        """Rows and units of the task's own that are reserved; what no limit counts is free."""
        rows, amount = 1 << 31, float(1 << 31)
        for meter, reserved in zip(self.meters, self.amounts, strict=True):
            if meter.unit == "rows":
                rows = min(rows, reserved // MICRO)
            elif meter.unit not in ("requests", "cpu-seconds"):
                amount = min(amount, reserved / MICRO)
        return rows, amount


class Till:
    """One process's way to the book."""

    def __init__(self, book: Book, journal: JournalWriter) -> None:
        self._book = book
        self._journal = journal
        self._name = ""
        self._column = -1
        self._guesses: dict[tuple[str, str], tuple[float, float]] = {}

    def take(self, permit: Permit, department: str, algorithm: str) -> Taken:
        """Reserve what a call is thought to need; QuotaExceeded or RateLimited where it is not there."""
        whose = (department, algorithm)
        if permit.plain:
            amounts = [MICRO] * len(permit.meters)
        else:
            rows, amount = self._guesses.get(whose, (1.0, 1.0))
            amounts = [_needed(meter.unit, rows, amount) for meter in permit.meters]
        found = self._book.take(permit.meters, amounts)
        if isinstance(found, Short):
            # What was thought may be too much where little is left: the least that a call can be.
            least = [min(a, MICRO) for a in amounts]
            found = found if amounts == least else self._book.take(permit.meters, least)
            amounts = least
            if isinstance(found, Short):
                raise refused(found, department)
        return Taken(permit.meters, amounts, found, whose)

    def extend(self, taken: Taken, rows: int, amount: float) -> None:
        """Reserve what a call turned out to need; QuotaExceeded where it is not there."""
        for index, meter in enumerate(taken.meters):
            more = _needed(meter.unit, rows, amount) - taken.amounts[index]
            if more <= 0:
                continue
            if short := self._book.extend(meter, more):
                raise refused(short, taken.whose[0], taken.amounts[index] / MICRO + more / MICRO)
            taken.amounts[index] += more

    def settle(self, calls: list[tuple[Taken, Settled]]) -> None:
        """Turn what was reserved into what was used; the journal has these calls already."""
        if self._journal.name != self._name:
            self._name = self._journal.name
            self._column = self._book.journal(self._name)
        done = []
        for taken, call in calls:
            answered = call.status == 200
            for meter, reserved in zip(taken.meters, taken.amounts, strict=True):
                used = _used(meter.unit, call) if answered else 0
                done.append((meter, reserved, used))
            if answered and any(
                meter.unit not in ("requests", "cpu-seconds") for meter in taken.meters
            ):
                self._learn(taken.whose, call)
        self._book.settle(done, self._column, self._journal.size)

    def release(self, taken: Taken) -> None:
        """Give everything back."""
        self._book.settle([(m, a, 0) for m, a in zip(taken.meters, taken.amounts, strict=True)])

    def _learn(self, whose: tuple[str, str], call: Settled) -> None:
        """What the next call may need: a little more than those before."""
        rows, amount = self._guesses.get(whose, (1.0, 1.0))
        if whose not in self._guesses and len(self._guesses) >= GUESSES:
            self._guesses.clear()
        self._guesses[whose] = (
            max(1.0, 0.9 * rows, 1.0 * call.rows), max(1.0, 0.9 * amount, 1.1 * call.amount),
        )  # fmt: skip


def _needed(unit: str, rows: float, amount: float) -> int:
    if unit == "cpu-seconds":
        return 0  # known afterwards: what is under way may go over by itself
    if unit == "requests":
        return MICRO
    return int((rows if unit == "rows" else amount) * MICRO) + (unit != "rows")


def _used(unit: str, call: Settled) -> int:
    if unit == "requests":
        return MICRO
    if unit == "rows":
        return call.rows * MICRO
    return call.own_work if unit == "cpu-seconds" else round(call.amount * MICRO)


def refused(short: Short, department: str, wanted: float = 0.0) -> QuotaExceeded | RateLimited:
    """Which limit has no room, what is left of it, and when to come again."""
    meter = short.meter
    error: QuotaExceeded | RateLimited
    if meter.per == "second":
        error = RateLimited(
            f"{department} may use {short.limit:g} {meter.unit} a second.",
            hint="Send more slowly, or ask an admin for a higher limit.",
        )
    elif meter.per == "once":
        error = RateLimited(
            f"{department} may have {short.limit:g} calls under way at the same time.",
            hint="Wait for an answer before the next call, or ask an admin for a higher limit.",
        )
    else:
        needs = f", and this call has {wanted:g}" if wanted else ""
        error = QuotaExceeded(
            f"{department} has used its {short.limit:g} {meter.unit} of this {meter.per}: "
            f"{max(0.0, short.left):g} are left{needs}.",
            hint=f"It begins anew in {_in_words(short.wait)}; an admin may raise it.",
        )
    error.retry_after = max(1, round(short.wait + 0.5))
    error.headers = (
        (b"ratelimit", b'"%s";r=%d;t=%d' % (meter.name.encode(), max(0, short.left), short.wait)),
        (b"ratelimit-policy", b'"%s";q=%d' % (meter.name.encode(), short.limit)),
    )
    return error


def _in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.0f} hours"
