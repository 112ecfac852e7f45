"""How long logs are kept, and the rows of those that have expired."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Delete, delete, func, select, update

from citybrain.core.schemas import Actor
from citybrain.storage.audit_tables import RetentionRow
from citybrain.storage.bill_tables import NoticeRow
from citybrain.storage.database import Database
from citybrain.storage.moments import now
from citybrain.storage.records.audit import note
from citybrain.storage.tables import JobRow, RequestRow, UsageDayRow, UsageMinuteRow

PIECE = 5_000
"""Rows that one transaction removes: callers' rows are written between two of them."""


class Retentions:
    """What somebody said, by log."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> dict[str, RetentionRow]:
        """The logs of which somebody said how long they are kept."""
        with self._database.read() as session:
            return {row.log: row for row in session.scalars(select(RetentionRow))}

    def put(self, log: str, days: int | None, actor: Actor) -> None:
        """Say it anew; None: as the platform has it."""
        with self._database.write() as session:
            row = session.get(RetentionRow, log)
            if days is None:
                if row is not None:
                    session.delete(row)
            else:
                row = row or RetentionRow(log=log)
                row.days, row.set_by, row.set_at = days, actor.person, now()
                session.add(row)
            note(session, actor, "retention.set", log, days=days)


class Expired:
    """Removes rows, a piece at a time; each method gives how many there were."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def departments(self, begin: datetime, end: datetime) -> list[str]:
        """Who called between two moments."""
        query = select(RequestRow.department).distinct()
        query = query.where(RequestRow.at >= begin, RequestRow.at < end)
        with self._database.read() as session:
            return sorted(session.scalars(query))

    def first_call(self) -> datetime | None:
        """When the oldest call of the ledger was."""
        with self._database.read() as session:
            return session.scalar(select(func.min(RequestRow.at)))

    def calls(self, before: datetime) -> int:
        """Rows of the ledger."""
        old = select(RequestRow.request_id).where(RequestRow.at < before).limit(PIECE)
        return self._pieces(delete(RequestRow).where(RequestRow.request_id.in_(old)))

    def minutes(self, before: datetime) -> int:
        """Calls by minute."""
        minute = int(before.timestamp() // 60)
        return self._pieces(delete(UsageMinuteRow).where(UsageMinuteRow.minute < minute))

    def days(self, before: str) -> int:
        """Usage by day (`2026-11-20`)."""
        return self._pieces(delete(UsageDayRow).where(UsageDayRow.day < before))

    def notices(self, before: datetime) -> int:
        """What departments were told."""
        return self._pieces(delete(NoticeRow).where(NoticeRow.at < before))

    def jobs(self, keep: timedelta) -> int:
        """Let results of jobs that have ended expire so long after their end; how many that changes."""
        query = select(JobRow.id, JobRow.finished_at, JobRow.expires_at).where(
            JobRow.finished_at.is_not(None), JobRow.expires_at > now()
        )
        changed = 0
        with self._database.write() as session:
            for job, finished, expires in session.execute(query).all():
                end = finished + keep if finished else expires
                if end != expires:
                    session.execute(update(JobRow).where(JobRow.id == job).values(expires_at=end))
                    changed += 1
        return changed

    def _pieces(self, query: Delete) -> int:
        """Repeat until a piece removes nothing."""
        total = 0
        while True:
            with self._database.write() as session:
                removed = int(session.execute(query).rowcount)  # type: ignore[attr-defined]
            total += removed
            if not removed:
                return total
