"""What departments are told: a champion changes or ends, something stops, a grant is answered or ends."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from citybrain.core.errors import RowNotFound
from citybrain.core.schemas.grants import Notice
from citybrain.storage.bill_tables import NoticeRow
from citybrain.storage.database import Database
from citybrain.storage.grant_tables import GrantRow, PinRow
from citybrain.storage.moments import now
from citybrain.storage.tables import UsageDayRow

SOON = timedelta(days=7)
LATELY = timedelta(days=30)


def tell(session: Session, department: str, kind: str, target: str, /, **detail: Any) -> None:
    """Tell a department something, in the transaction of what it is about."""
    session.add(
        NoticeRow(
            department=department, kind=kind, target=target, detail=detail, at=now(), read_at=None
        )
    )  # fmt: skip


def tell_users(session: Session, algorithm: str, kind: str, /, **detail: Any) -> None:
    """Tell whoever uses an algorithm: who holds a living grant, or called it in the last 30 days.

    A department that stays with a version of its own reads that, too: `pinned`.
    """
    moment = now()
    granted = select(GrantRow.department).where(
        GrantRow.kind == "algorithm", GrantRow.algorithm == algorithm,
        GrantRow.revoked_at.is_(None), GrantRow.until.is_(None) | (GrantRow.until > moment),
    )  # fmt: skip
    called = select(UsageDayRow.department).where(
        UsageDayRow.algorithm == algorithm, UsageDayRow.day >= f"{moment - LATELY:%Y-%m-%d}"
    )
    pins = select(PinRow.department, PinRow.version).where(PinRow.algorithm == algorithm)
    pinned = {row.department: row.version for row in session.execute(pins)}
    for department in sorted({*session.scalars(granted), *session.scalars(called)}):
        stays = {"pinned": pinned[department]} if department in pinned else {}
        tell(session, department, kind, algorithm, **detail, **stays)


class Notices:
    """Read once by anybody of the department."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, department: str = "", *, unread: bool = False, limit: int = 100) -> list[Notice]:
        """Notices, newest first."""
        query = select(NoticeRow).order_by(NoticeRow.id.desc()).limit(limit)
        if department:
            query = query.where(NoticeRow.department == department)
        if unread:
            query = query.where(NoticeRow.read_at.is_(None))
        with self._database.read() as session:
            return [
                Notice.model_validate(row, from_attributes=True) for row in session.scalars(query)
            ]

    def read(self, notice_id: int, department: str = "") -> Notice:
        """Mark one as read; RowNotFound for another department's."""
        with self._database.write() as session:
            row = session.get(NoticeRow, notice_id)
            if row is None or (department and row.department != department):
                raise RowNotFound(f"There is no notice {notice_id}.")
            row.read_at = row.read_at or now()
            return Notice.model_validate(row, from_attributes=True)

    def read_all(self, department: str) -> int:
        """Mark all of a department's as read; how many were new."""
        unread = update(NoticeRow).where(
            NoticeRow.department == department, NoticeRow.read_at.is_(None)
        )
        with self._database.write() as session:
            done: Any = session.execute(unread.values(read_at=now()))
            return int(done.rowcount)

    def unread(self, department: str) -> int:
        """How many nobody of the department has read."""
        query = select(func.count()).select_from(NoticeRow)
        query = query.where(NoticeRow.department == department, NoticeRow.read_at.is_(None))
        with self._database.read() as session:
            return session.scalar(query) or 0

    def grants_that_end(self) -> int:
        """Tell whose grant ends within a week, once; how many."""
        moment = now()
        query = select(GrantRow).where(
            GrantRow.revoked_at.is_(None), GrantRow.until > moment, GrantRow.until < moment + SOON
        )
        with self._database.write() as session:
            told = {
                row.detail.get("grant")
                for row in session.scalars(
                    select(NoticeRow).where(
                        NoticeRow.kind == "grant.ends", NoticeRow.at > moment - 2 * SOON
                    )
                )
            }
            ending = [grant for grant in session.scalars(query) if grant.id not in told]
            for grant in ending:
                assert grant.until is not None
                tell(session, grant.department, "grant.ends", grant.algorithm, grant=grant.id,
                     purpose=grant.purpose, until=grant.until.isoformat())  # fmt: skip
            return len(ending)
