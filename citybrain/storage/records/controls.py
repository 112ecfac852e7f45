"""What is stopped, pinned, lowered and forbidden."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from citybrain.core.errors import Conflict, NotAllowed, RowNotFound
from citybrain.core.levels import Level
from citybrain.core.schemas import Actor
from citybrain.core.schemas.grants import (
    Deidentification,
    Forbidden,
    NewDeidentification,
    NewForbidden,
    NewSuspension,
    Pin,
    Suspension,
)
from citybrain.storage.database import Database, bump, lock
from citybrain.storage.grant_tables import (
    DeidentificationRow,
    ForbiddenRow,
    GrantRow,
    PinRow,
    SuspensionRow,
)
from citybrain.storage.moments import now
from citybrain.storage.people_tables import DepartmentRow, KeyRow
from citybrain.storage.records.audit import note
from citybrain.storage.records.notices import tell, tell_users

TABLES: dict[str, Any] = {"grant": GrantRow, "department": DepartmentRow, "key": KeyRow}


class Controls:
    """Small tables that gateways look at, or that registration does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Suspensions: the kill switch

    def suspensions(self, *, all_of_them: bool = False) -> list[Suspension]:
        """What is stopped now (or ever was), newest first."""
        query = select(SuspensionRow).order_by(SuspensionRow.at.desc()).limit(1000)
        if not all_of_them:
            query = query.where(SuspensionRow.lifted_at.is_(None))
        with self._database.read() as session:
            return [
                Suspension.model_validate(r, from_attributes=True) for r in session.scalars(query)
            ]

    def suspend(self, new: NewSuspension, actor: Actor) -> Suspension:
        """Stop something; every gateway refuses it within a second."""
        with self._database.write() as session:
            lock(session, f"suspension/{new.target}")
            table = TABLES.get(new.kind)
            if table is not None and session.get(table, new.target) is None:
                raise RowNotFound(f"There is no {new.kind} {new.target}.")
            same = select(SuspensionRow).where(
                SuspensionRow.kind == new.kind, SuspensionRow.target == new.target,
                SuspensionRow.lifted_at.is_(None),
            )  # fmt: skip
            if session.scalars(same).first() is not None:
                raise Conflict(f"{new.kind} {new.target} is suspended already.")
            row = SuspensionRow(
                id=uuid.uuid4().hex[:12], **new.model_dump(), suspended_by=actor.person, at=now(),
                lifted_by="", lifted_at=None,
            )  # fmt: skip
            session.add(row)
            note(session, actor, "suspension.set", new.target, **new.model_dump())
            _tell(session, "suspension.set", new.kind, new.target, reason=new.reason)
            return Suspension.model_validate(row, from_attributes=True)

    def lift(self, suspension_id: str, actor: Actor) -> Suspension:
        """Let it go on."""
        with self._database.write() as session:
            row = session.get(SuspensionRow, suspension_id)
            if row is None or row.lifted_at is not None:
                raise RowNotFound(f"There is no suspension {suspension_id[:40]}.")
            row.lifted_by, row.lifted_at = actor.person, now()
            note(session, actor, "suspension.lift", row.target, kind=row.kind, suspension=row.id)
            _tell(session, "suspension.lift", row.kind, row.target)
            return Suspension.model_validate(row, from_attributes=True)

    # Pins

    def pins(self, department: str = "") -> list[Pin]:
        """Which departments stay with which versions."""
        query = select(PinRow).order_by(PinRow.algorithm, PinRow.department)
        if department:
            query = query.where(PinRow.department == department)
        with self._database.read() as session:
            return [Pin.model_validate(row, from_attributes=True) for row in session.scalars(query)]

    def pin(self, department: str, algorithm: str, version: int, actor: Actor) -> Pin:
        """Stay with a version."""
        with self._database.write() as session:
            row = session.get(PinRow, (department, algorithm))
            if row is None:
                row = PinRow(department=department, algorithm=algorithm)
                session.add(row)
            row.version, row.set_by, row.set_at = version, actor.key, now()
            note(session, actor, "pin.set", algorithm, department=department, version=version)
            return Pin.model_validate(row, from_attributes=True)

    def unpin(self, department: str, algorithm: str, actor: Actor) -> None:
        """Follow the champion again."""
        with self._database.write() as session:
            row = session.get(PinRow, (department, algorithm))
            if row is None:
                raise RowNotFound(f"{department} has no pin on {algorithm[:63]}.")
            session.delete(row)
            note(session, actor, "pin.end", algorithm, department=department)

    # De-identification

    def deidentifications(self) -> list[Deidentification]:
        """All of them, newest first."""
        query = select(DeidentificationRow).order_by(DeidentificationRow.created_at.desc())
        with self._database.read() as session:
            return [
                Deidentification.model_validate(r, from_attributes=True)
                for r in session.scalars(query)
            ]

    def lowered(self) -> dict[tuple[str, str], Level]:
        """What answers of algorithms and views are lowered to, with approval."""
        return {
            (d.kind, d.target): d.level for d in self.deidentifications() if d.state == "approved"
        }

    def ask_to_lower(self, new: NewDeidentification, actor: Actor) -> Deidentification:
        """Write down how answers are made less sensitive; another person approves."""
        with self._database.write() as session:
            row = DeidentificationRow(
                id=uuid.uuid4().hex[:12], **new.model_dump(), state="waiting",
                asked_by=actor.person, decided_by="", created_at=now(), decided_at=None,
            )  # fmt: skip
            session.add(row)
            note(session, actor, "deidentification.ask", new.target, **new.model_dump(mode="json"))
            return Deidentification.model_validate(row, from_attributes=True)

    def lower(self, wanted: str, actor: Actor, *, approve: bool) -> Deidentification:
        """Approve one, as another person than who asked; or end it."""
        with self._database.write() as session:
            row = session.get(DeidentificationRow, wanted, with_for_update=True)
            if row is None or row.state == "ended" or (approve and row.state != "waiting"):
                raise RowNotFound(f"There is no de-identification {wanted[:40]} to decide about.")
            if approve and row.asked_by == actor.person:
                raise NotAllowed("This takes four eyes: who asked cannot approve.")
            row.state = "approved" if approve else "ended"
            row.decided_by, row.decided_at = actor.person, now()
            act = "deidentification.approve" if approve else "deidentification.end"
            note(session, actor, act, row.target, kind=row.kind, level=str(row.level), entry=row.id)
            bump(session)
            return Deidentification.model_validate(row, from_attributes=True)

    # The negative list

    def forbidden(self) -> list[Forbidden]:
        """What is never collected or joined."""
        query = select(ForbiddenRow).where(ForbiddenRow.ended_at.is_(None))
        with self._database.read() as session:
            rows = session.scalars(query.order_by(ForbiddenRow.category, ForbiddenRow.joined))
            return [Forbidden.model_validate(row, from_attributes=True) for row in rows]

    def forbid(self, new: NewForbidden, actor: Actor) -> Forbidden:
        """Add a line."""
        with self._database.write() as session:
            row = ForbiddenRow(
                id=uuid.uuid4().hex[:12], **new.model_dump(), set_by=actor.person, set_at=now(),
                ended_at=None,
            )  # fmt: skip
            session.add(row)
            note(session, actor, "forbidden.set", new.category, **new.model_dump())
            return Forbidden.model_validate(row, from_attributes=True)

    def allow(self, line_id: str, actor: Actor) -> Forbidden:
        """Take a line away."""
        with self._database.write() as session:
            row = session.get(ForbiddenRow, line_id)
            if row is None or row.ended_at is not None:
                raise RowNotFound(f"There is no line {line_id[:40]} on the negative list.")
            row.ended_at = now()
            note(session, actor, "forbidden.end", row.category, joined=row.joined, line=row.id)
            return Forbidden.model_validate(row, from_attributes=True)


def _tell(session: Session, act: str, kind: str, target: str, **detail: str) -> None:
    """Tell whose calls stop, or go on."""
    if kind == "algorithm":
        tell_users(session, target, act, kind=kind, **detail)
    elif row := session.get(TABLES[kind], target):
        department = target if kind == "department" else row.department
        about = row.algorithm if kind == "grant" else target
        tell(session, department, act, about, kind=kind, **detail)
