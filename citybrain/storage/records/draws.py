"""What became of calls at the versions that a split drew them to: what releases are judged by.

A call that names a version, a chunk of a batch job and a fallback's answer say nothing about a release,
and are in the ledger alone. A call that failed where it was drawn to counts there as failed, even
where a fallback saved its caller.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session

from citybrain.core.errors import Overloaded
from citybrain.storage.database import Database
from citybrain.storage.journal import Refusal, Settled
from citybrain.storage.log_tables import DrawRow

KEPT_SECONDS = 7 * 86_400
TIMED_A_SECOND, TIMED = 50, 2_000
"""Latencies that are kept of one second, and that an arm has at most: both drawn by lot."""
TIMED_ROWS = 4_000
"""How many of the newest rows latencies are taken from."""


class Arm(NamedTuple):
    """What one version did in a window."""

    calls: int = 0
    failed: int = 0
    """Calls that the platform or the model failed, not those that were wrong (4xx)."""
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    took_ms: tuple[float, ...] = ()
    """Latencies of some of its newest answers, sorted."""


class Draws:
    """Counts by second and version, exact however many calls there were."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def arms(
        self, algorithm: str, since: datetime, until: datetime | None = None
    ) -> dict[int, Arm]:
        """What each version did from the second after the first moment to that of the second one.

        At that one a split ended, and nothing is drawn any more.
        """
        # Of the second in which a step began, nobody knows which calls were before it.
        window = [DrawRow.algorithm == algorithm, DrawRow.second > int(since.timestamp())]
        if until is not None:
            window.append(DrawRow.second <= int(until.timestamp()))
        totals = (
            select(DrawRow.version, func.sum(DrawRow.calls), func.sum(DrawRow.failed))
            .where(*window)
            .group_by(DrawRow.version)
        )
        with self._database.read() as session:
            counts = {v: (int(calls), int(failed)) for v, calls, failed in session.execute(totals)}
            took = _newest(session, window, len(counts))
        return {
            version: _arm(calls, failed, took.get(version, []))
            for version, (calls, failed) in counts.items()
        }


def _newest(
    session: Session, window: list[ColumnElement[bool]], versions: int
) -> dict[int, list[int]]:
    """The newest latencies of all versions, from the same seconds: load slows all of them."""
    newest = (
        select(DrawRow.version, DrawRow.calls - DrawRow.failed, DrawRow.took)
        .where(*window)
        .order_by(DrawRow.second.desc())
        .limit(TIMED_ROWS)
        .execution_options(yield_per=100)
    )
    rows: dict[int, list[tuple[int, list[int]]]] = defaultdict(list)
    sizes: dict[int, int] = defaultdict(int)
    for version, answered, took in session.execute(newest):
        if took:
            rows[version].append((answered, took))
            sizes[version] += len(took)
        if len(sizes) == versions and min(sizes.values()) >= TIMED:
            break
    return {version: _evenly(some) for version, some in rows.items()}


def _evenly(rows: list[tuple[int, list[int]]]) -> list[int]:
    """Of each second as many as it had answers, in proportion: a busy one counts for more."""
    rate = min(len(took) / answered for answered, took in rows)
    found = [
        micros for answered, took in rows for micros in took
        if random.random() <= rate * answered / len(took)
    ]  # fmt: skip
    return random.sample(found, TIMED) if len(found) > TIMED else found


def count_draws(session: Session, records: Iterable[Settled]) -> None:
    """Count calls that came into the ledger, in its transaction."""
    seconds: dict[tuple[str, int, int], list[Settled]] = defaultdict(list)
    for r in records:
        if r.drawn and (r.drawn_status == 200 or r.drawn_status >= 500):
            seconds[r.algorithm, r.at_ms // 1000, r.drawn].append(r)
    if not seconds:
        return
    for (algorithm, second, version), calls in seconds.items():
        row = session.get(DrawRow, (algorithm, second, version))
        if row is None:
            row = DrawRow(
                algorithm=algorithm, second=second, version=version, calls=0, failed=0, took=[]
            )
            session.add(row)
        answered = [r.drawn_micros for r in calls if r.drawn_status == 200]
        row.took = _sampled(row.took, row.calls - row.failed, answered)
        row.calls += len(calls)
        row.failed += len(calls) - len(answered)
    oldest = max(second for _, second, _ in seconds) - KEPT_SECONDS
    names = {algorithm for algorithm, _, _ in seconds}
    session.execute(delete(DrawRow).where(DrawRow.algorithm.in_(names), DrawRow.second < oldest))


def count_full(session: Session, refused: Iterable[Refusal]) -> None:
    """Count calls that found a version's line full, and so have no row in the ledger: as failed."""
    for one in refused:
        if one.version and one.code == Overloaded.code:
            key = (one.algorithm, one.at_ms // 1000, one.version)
            row = session.get(DrawRow, key)
            if row is None:
                row = DrawRow(
                    algorithm=key[0], second=key[1], version=key[2], calls=0, failed=0, took=[]
                )  # fmt: skip
                session.add(row)
            row.calls += one.calls
            row.failed += one.calls


def _sampled(kept: list[int], seen: int, more: list[int]) -> list[int]:
    """A fair sample of all that were seen, from one of those before and the new ones."""
    found = list(kept)
    for before, micros in enumerate(more, seen):
        if len(found) < TIMED_A_SECOND:
            found.append(micros)
        elif (place := random.randrange(before + 1)) < TIMED_A_SECOND:
            found[place] = micros
    return found


def _arm(calls: int, failed: int, took: list[int]) -> Arm:
    ms = tuple(sorted(micros / 1000 for micros in took))
    p50, p95 = (ms[int(share * len(ms))] for share in (0.5, 0.95)) if ms else (0.0, 0.0)
    return Arm(calls, failed, p50, p95, ms)
