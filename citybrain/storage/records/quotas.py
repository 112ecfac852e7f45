"""Limits of departments, and what their deployments may take."""

from __future__ import annotations

import uuid
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from citybrain.core.errors import Overloaded, RowNotFound
from citybrain.core.schemas import Actor
from citybrain.core.schemas.quotas import Allotment, NewAllotment, NewQuota, Quota
from citybrain.storage.database import Database, lock
from citybrain.storage.moments import now
from citybrain.storage.people_tables import DepartmentRow
from citybrain.storage.quota_tables import AllotmentRow, QuotaRow
from citybrain.storage.records.audit import note

SLOTS = 2048
REST = timedelta(hours=1)
"""How long the slot of a limit that ended stays empty: gateways may still count in it."""


class Quotas:
    """Rows that say how much; how much is used stands in the book and in the ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def active(self, department: str = "") -> list[Quota]:
        """Limits in force."""
        query = select(QuotaRow).where(QuotaRow.ended_at.is_(None)).order_by(QuotaRow.set_at)
        if department:
            query = query.where(QuotaRow.department == department)
        with self._database.read() as session:
            return [
                Quota.model_validate(row, from_attributes=True) for row in session.scalars(query)
            ]

    def put(self, new: NewQuota, actor: Actor) -> Quota:
        """Set a limit, in place of the one before."""
        with self._database.write() as session:
            lock(session, "quotas")
            if session.get(DepartmentRow, new.department) is None:
                raise RowNotFound(f"There is no department {new.department}.")
            same = select(QuotaRow).where(
                QuotaRow.ended_at.is_(None), QuotaRow.department == new.department,
                QuotaRow.algorithm == new.algorithm, QuotaRow.unit == new.unit,
                QuotaRow.per == new.per,
            )  # fmt: skip
            for old in session.scalars(same):
                old.ended_at = now()
            row = QuotaRow(
                id=uuid.uuid4().hex[:12], **new.model_dump(), slot=_free_slot(session),
                set_by=actor.key, set_at=now(), ended_at=None,
            )  # fmt: skip
            session.add(row)
            note(session, actor, "quota.set", new.department, **new.model_dump())
            return Quota.model_validate(row, from_attributes=True)

    def end(self, quota_id: str, actor: Actor) -> Quota:
        """Take a limit away."""
        with self._database.write() as session:
            row = session.get(QuotaRow, quota_id)
            if row is None or row.ended_at is not None:
                raise RowNotFound(f"There is no limit {quota_id[:40]}.")
            row.ended_at = now()
            note(session, actor, "quota.end", row.department, quota=row.id)
            return Quota.model_validate(row, from_attributes=True)

    def allotments(self) -> list[Allotment]:
        """What each department's deployments may take, where somebody said so."""
        with self._database.read() as session:
            rows = session.scalars(select(AllotmentRow).order_by(AllotmentRow.department))
            return [Allotment.model_validate(row, from_attributes=True) for row in rows]

    def allot(self, department: str, new: NewAllotment, actor: Actor) -> Allotment:
        """Say it anew; what runs already goes on."""
        with self._database.write() as session:
            if session.get(DepartmentRow, department) is None:
                raise RowNotFound(f"There is no department {department[:63]}.")
            row = session.get(AllotmentRow, department) or AllotmentRow(department=department)
            for name, value in new.model_dump().items():
                setattr(row, name, value)
            row.set_by, row.set_at = actor.key, now()
            session.add(row)
            note(session, actor, "allotment.set", department, **new.model_dump())
            return Allotment.model_validate(row, from_attributes=True)


def _free_slot(session: Session) -> int:
    busy = set(
        session.scalars(
            select(QuotaRow.slot).where(
                QuotaRow.ended_at.is_(None) | (QuotaRow.ended_at > now() - REST)
            )
        )
    )
    for slot in range(SLOTS):
        if slot not in busy:
            return slot
    raise Overloaded(
        f"There are {SLOTS} limits already.", hint="End some that nobody needs: citybrain quotas"
    )
