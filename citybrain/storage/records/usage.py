"""The ledger and what is counted from it."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import delete, func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from citybrain.core.schemas import UsageLine, UsageMinute
from citybrain.storage.database import Database
from citybrain.storage.journal import (
    Admitted,
    Refusal,
    Settled,
    is_finished,
    journals,
    read_calls,
    read_from,
)
from citybrain.storage.ledger_rows import void_row, write_rows
from citybrain.storage.records.draws import count_draws, count_full
from citybrain.storage.tables import JournalRow, RequestRow, UsageDayRow, UsageMinuteRow

BUCKETS = [round(0.1 * 1.35**n, 4) for n in range(46)]
"""Upper bounds of the latency histogram in milliseconds, 0.1 ms to about 75 s."""
CHUNK = 500
JOB = "job"
"""The door of batch jobs."""


class LastUse(NamedTuple):
    """When a department last called a version, and how often in all."""

    department: str
    algorithm: str
    version: int
    day: str
    requests: int


class Usage:
    """Folds journals into the ledger, each call once, and answers what was used."""

    def __init__(
        self, database: Database, zone: ZoneInfo,
        watch: Callable[[list[Settled]], None] = lambda _: None,
        refused: Callable[[list[Refusal]], None] = lambda _: None,
    ) -> None:  # fmt: skip
        """`watch` is told of every call that came into the ledger, `refused` of those that did not.

        Once each; the second are no rows, only sums that end with this process.
        """
        self._database = database
        self._watch, self._refused = watch, refused
        self._zone = zone
        self._read: dict[str, int] = {}

    def load(self, folder: Path) -> int:
        """Read on in every journal; returns how many calls were settled by it.

        Rows, counters and the offset are one transaction, so a kill between two of them is a
        kill before all of them. A finished journal leaves a VOID row for each call that was
        admitted and never settled, and is deleted.
        """
        loaded = 0
        for path in journals(folder):
            finished = is_finished(path)  # asked before the last read, never after
            size = path.stat().st_size
            if not finished and self._read.get(path.name) == size:
                continue  # nothing new; an idle platform leaves its database alone
            # To where the file ended at the start: what is written meanwhile waits for the next
            # look, so that a busy gateway makes few large transactions of it and not many small.
            before = -1
            while (reached := self._read.get(path.name, 0)) < size and reached != before:
                before = reached
                loaded += self._load_some(path)
            if finished:
                self._finish(path)
        return loaded

    def _load_some(self, path: Path) -> int:
        with self._database.write() as session:
            mark = session.get(JournalRow, path.name)
            if mark is None:
                mark = JournalRow(file=path.name, offset=0)
                session.add(mark)
            settled, refused, mark.offset = read_calls(path, mark.offset)
            fresh = self._fold(session, settled)
            count_full(session, refused)
            offset = mark.offset
        self._read[path.name] = offset
        self._watch(fresh)
        if refused:
            self._refused(refused)
        return len(settled)

    def _fold(self, session: Session, settled: list[Settled]) -> list[Settled]:
        fresh = {record.request_id: record for record in settled}
        if not fresh:
            return []
        try:
            with session.begin_nested():
                write_rows(session, list(fresh.values()))
        except IntegrityError:  # some are known: a call that was made again, or counted as lost
            fresh = self._unknown(session, fresh)
            if not fresh:
                return []
            write_rows(session, list(fresh.values()))
        self._count(session, list(fresh.values()))
        count_draws(session, fresh.values())
        return list(fresh.values())

    def _unknown(self, session: Session, settled: dict[str, Settled]) -> dict[str, Settled]:
        """Those that have no row yet; a VOID row makes way for its answer."""
        fresh: dict[str, Settled] = {}
        for start in range(0, len(settled), CHUNK):
            chunk = dict(list(settled.items())[start : start + CHUNK])
            asked = select(RequestRow.request_id, RequestRow.state)
            found = session.execute(asked.where(RequestRow.request_id.in_(chunk)))
            known: dict[str, str] = {row.request_id: row.state for row in found}
            void = [request_id for request_id, state in known.items() if state == "VOID"]
            if void:  # its journal was finished while the answer went into the next one
                session.execute(delete(RequestRow).where(RequestRow.request_id.in_(void)))
            fresh |= {key: r for key, r in chunk.items() if known.get(key, "VOID") == "VOID"}
        return fresh

    def _count(self, session: Session, records: list[Settled]) -> None:
        names: dict[int, str] = {}
        days: dict[tuple[str, ...], list[Any]] = defaultdict(lambda: [0, 0, 0, 0, 0.0, 0, ""])
        minutes: dict[tuple[int, str], list[Any]] = defaultdict(
            lambda: [0, 0, [0] * (len(BUCKETS) + 1)]
        )
        alike: dict[tuple[int, str, str, int, bool, bool, str], list[Settled]] = defaultdict(list)
        for r in records:
            alike[
                r.at_ms // 60_000, r.department, r.algorithm, r.version, r.status == 200,
                r.door == JOB, r.unit,
            ].append(r)  # fmt: skip
        for (at, department, algorithm, number, answered, job, unit), some in alike.items():
            quarter = at // 15  # no time zone changes its day within a quarter of an hour
            if quarter not in names:
                names[quarter] = f"{datetime.fromtimestamp(quarter * 900, self._zone):%Y-%m-%d}"
            day = days[names[quarter], department, algorithm, str(number)]
            day[0] += len(some)
            day[3] += sum([r.micros for r in some])
            if answered:
                day[2] += sum([r.rows for r in some])
                day[4] += sum([r.amount for r in some])
                day[5] += sum([r.own_work for r in some])
                day[6] = unit
            else:
                day[1] += len(some)
            if job:  # minutes tell how callers are served, and nobody waits for a chunk
                continue
            minute = minutes[at, algorithm]
            minute[0] += len(some)
            minute[1] += 0 if answered else len(some)
            for r in some:
                minute[2][bisect_left(BUCKETS, r.micros / 1000)] += 1
        for (name, department, algorithm, version), values in days.items():
            key = (name, department, algorithm, int(version))
            row = session.get(UsageDayRow, key)
            if row is None:
                row = UsageDayRow(
                    day=name, department=department, algorithm=algorithm, version=int(version),
                    requests=0, failed=0, rows=0, micros=0, unit="", amount=0.0, work_micros=0,
                )  # fmt: skip
                session.add(row)
            row.requests += values[0]
            row.failed += values[1]
            row.rows += values[2]
            row.micros += values[3]
            row.amount += values[4]
            row.work_micros += values[5]
            row.unit = values[6] or row.unit
        for (minute_key, algorithm), (requests, failed, latency) in minutes.items():
            spot = session.get(UsageMinuteRow, (minute_key, algorithm))
            if spot is None:
                spot = UsageMinuteRow(
                    minute=minute_key, algorithm=algorithm, requests=0, failed=0,
                    latency=[0] * len(latency),
                )  # fmt: skip
                session.add(spot)
            spot.requests += requests
            spot.failed += failed
            spot.latency = [a + b for a, b in zip(spot.latency, latency, strict=True)]

    def _finish(self, path: Path) -> None:
        admitted: dict[str, Admitted] = {}
        offset = -1
        following = 0
        while following != offset:
            offset = following
            lines, following = read_from(path, offset)
            for line in lines:
                if line[0] == "A":
                    record = Admitted(*line[1:])
                    admitted[record.request_id] = record
                else:
                    admitted.pop(str(line[1]), None)
        with self._database.write() as session:
            for start in range(0, len(admitted), CHUNK):
                chunk = dict(list(admitted.items())[start : start + CHUNK])
                known = set(
                    session.scalars(
                        select(RequestRow.request_id).where(RequestRow.request_id.in_(chunk))
                    )
                )
                rows = [void_row(record) for key, record in chunk.items() if key not in known]
                if rows:
                    session.execute(insert(RequestRow), rows)
            session.execute(delete(JournalRow).where(JournalRow.file == path.name))
        path.unlink()
        self._read.pop(path.name, None)

    def days(self, *, department: str = "", since: str = "", limit: int = 2000) -> list[UsageLine]:
        """Usage lines, newest day first."""
        query = select(UsageDayRow).order_by(UsageDayRow.day.desc(), UsageDayRow.requests.desc())
        if department:
            query = query.where(UsageDayRow.department == department)
        if since:
            query = query.where(UsageDayRow.day >= since)
        with self._database.read() as session:
            return [
                UsageLine(
                    day=r.day, department=r.department, algorithm=r.algorithm, version=r.version,
                    requests=r.requests, failed=r.failed, rows=r.rows,
                    mean_ms=round(r.micros / 1000 / max(1, r.requests), 3),
                )
                for r in session.scalars(query.limit(limit))
            ]  # fmt: skip

    def last_uses(self) -> list[LastUse]:
        """Each department's calls of each version: how many, and the last day."""
        day, total = func.max(UsageDayRow.day), func.sum(UsageDayRow.requests)
        keys = (UsageDayRow.department, UsageDayRow.algorithm, UsageDayRow.version)
        with self._database.read() as session:
            rows = session.execute(select(*keys, day, total).group_by(*keys).order_by(*keys))
            return [LastUse(*row[:4], int(row[4])) for row in rows]

    def minutes(self, *, last: int = 60, algorithm: str = "") -> list[UsageMinute]:
        """Calls and latency percentiles of the last minutes."""
        since = int((datetime.now(UTC) - timedelta(minutes=last)).timestamp() // 60)
        query = select(UsageMinuteRow).where(UsageMinuteRow.minute >= since)
        if algorithm:
            query = query.where(UsageMinuteRow.algorithm == algorithm)
        with self._database.read() as session:
            return [
                UsageMinute(
                    minute=r.minute, algorithm=r.algorithm, requests=r.requests, failed=r.failed,
                    p50_ms=percentile(r.latency, 0.5), p95_ms=percentile(r.latency, 0.95),
                )
                for r in session.scalars(query.order_by(UsageMinuteRow.minute))
            ]  # fmt: skip

    def request(self, request_id: str) -> dict[str, Any] | None:
        """One ledger row, for whoever asks about a call by its id."""
        with self._database.read() as session:
            row = session.get(RequestRow, request_id)
            if row is None:
                return None
            return {column.key: getattr(row, column.key) for column in RequestRow.__table__.columns}


def percentile(latency: list[int], share: float) -> float:
    """The upper bound (ms) of the histogram bucket that holds this share of the calls."""
    total, seen = sum(latency), 0
    for index, count in enumerate(latency):
        seen += count
        if total and seen >= share * total:
            return BUCKETS[min(index, len(BUCKETS) - 1)]
    return 0.0
