"""Requests for grants, and what the owner says to them."""

from __future__ import annotations

import uuid
from datetime import timedelta

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from citybrain.core.errors import Conflict, InvalidInput, NotAllowed, RowNotFound
from citybrain.core.schemas import Actor
from citybrain.core.schemas.grants import GrantRequest, NewGrantRequest
from citybrain.storage.database import Database, lock
from citybrain.storage.grant_tables import GrantRequestRow, GrantRow
from citybrain.storage.moments import now
from citybrain.storage.people_tables import DepartmentRow
from citybrain.storage.records.audit import note
from citybrain.storage.records.notices import tell
from citybrain.storage.records.past import note_grant
from citybrain.storage.tables import AlgorithmRow

USUAL, LONGEST = timedelta(days=365), timedelta(days=3 * 366)


class GrantRequests:
    """A department asks, the owner answers; a yes is a grant."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(
        self, *, department: str = "", algorithms: list[str] | None = None, state: str = ""
    ) -> list[GrantRequest]:
        """Requests, newest first: of a department or about these algorithms, or all."""
        query = select(GrantRequestRow).order_by(GrantRequestRow.created_at.desc()).limit(500)
        if department:
            query = query.where(
                or_(
                    GrantRequestRow.department == department,
                    GrantRequestRow.algorithm.in_(algorithms or []),
                )
            )
        if state:
            query = query.where(GrantRequestRow.state == state)
        with self._database.read() as session:
            return [_shown(row) for row in session.scalars(query)]

    def get(self, request_id: str) -> GrantRequest:
        """One, or RowNotFound."""
        with self._database.read() as session:
            row = session.get(GrantRequestRow, request_id)
            if row is None:
                raise RowNotFound(f"There is no request {request_id[:40]}.")
            return _shown(row)

    def ask(self, new: NewGrantRequest, actor: Actor) -> GrantRequest:
        """Write a request down; Conflict while an equal one waits."""
        moment = now()
        until = new.until or moment + USUAL
        if not moment < until <= moment + LONGEST:
            raise InvalidInput(
                "A grant ends after now and within three years.", hint="Ask anew before it ends."
            )
        with self._database.write() as session:
            lock(session, f"grants/{new.algorithm}")
            if session.get(DepartmentRow, new.department) is None:
                raise RowNotFound(f"There is no department {new.department}.")
            same = select(GrantRequestRow).where(
                GrantRequestRow.department == new.department, GrantRequestRow.kind == new.kind,
                GrantRequestRow.algorithm == new.algorithm, GrantRequestRow.purpose == new.purpose,
                GrantRequestRow.state == "waiting",
            )  # fmt: skip
            if (waiting := session.scalars(same).first()) is not None:
                raise Conflict(
                    f"{new.department} asked for this already (request {waiting.id}).",
                    hint="Its owner has yet to answer; withdraw it to ask otherwise.",
                )
            said = new.model_dump(exclude={"until"})
            row = GrantRequestRow(
                id=uuid.uuid4().hex[:12], **said, until=until, state="waiting",
                asked_by=actor.person, decided_by="", answer="", grant_id="", created_at=moment,
                decided_at=None,
            )  # fmt: skip
            session.add(row)
            note(session, actor, "grant.ask", new.algorithm, request=row.id, **said)
            owner = session.get(AlgorithmRow, new.algorithm)
            if owner is not None and new.kind == "algorithm":
                tell(session, owner.owner, "grant.asked", new.algorithm, request=row.id,
                     department=new.department, purpose=new.purpose)  # fmt: skip
            return _shown(row)

    def approve(self, request_id: str, answer: str, actor: Actor, *, alone: bool) -> GrantRequest:
        """Say yes: the grant is given in the same transaction. `alone`: who asked may answer, too."""
        with self._database.write() as session:
            row = _waiting(session, request_id)
            own = row.asked_by == actor.person
            if own and not alone:
                raise NotAllowed(
                    "This takes four eyes: who asked cannot approve.",
                    hint=f"Another person runs: citybrain grants approve {row.id}",
                )
            moment = now()
            if row.until is not None and row.until <= moment:
                raise Conflict("The request asks for a time that is over.", hint="Ask anew.")
            grant = GrantRow(
                id=uuid.uuid4().hex[:12], department=row.department, algorithm=row.algorithm,
                purpose=row.purpose, granted_by=actor.key, created_at=moment, until=row.until,
                revoked_at=None, kind=row.kind, scenario=row.scenario, basis=row.basis,
                columns=row.columns,
            )  # fmt: skip
            session.add(grant)
            note_grant(session, grant, "given", actor.key, moment)
            row.grant_id = grant.id
            self._decide(session, row, "approved", answer, actor, self_approved=own)
            return _shown(row)

    def refuse(self, request_id: str, answer: str, actor: Actor) -> GrantRequest:
        """Say no, and why."""
        if not answer:
            raise InvalidInput("A refusal says why.", hint="--answer 'ask for aggregates instead'")
        with self._database.write() as session:
            row = _waiting(session, request_id)
            self._decide(session, row, "refused", answer, actor)
            return _shown(row)

    def withdraw(self, request_id: str, actor: Actor) -> GrantRequest:
        """The department takes it back."""
        with self._database.write() as session:
            row = _waiting(session, request_id)
            self._decide(session, row, "withdrawn", "", actor)
            return _shown(row)

    def _decide(
        self, session: Session, row: GrantRequestRow, state: str, answer: str, actor: Actor,
        **detail: bool,
    ) -> None:  # fmt: skip
        row.state, row.answer = state, answer
        row.decided_by, row.decided_at = actor.person, now()
        note(session, actor, f"grant.{state}", row.algorithm, request=row.id,
             department=row.department, answer=answer, **detail)  # fmt: skip
        if state != "withdrawn":
            tell(
                session,
                row.department,
                f"grant.{state}",
                row.algorithm,
                request=row.id,
                answer=answer,
            )


def _waiting(session: Session, request_id: str) -> GrantRequestRow:
    row = session.get(GrantRequestRow, request_id, with_for_update=True)
    if row is None:
        raise RowNotFound(f"There is no request {request_id[:40]}.")
    if row.state != "waiting":
        raise Conflict(f"Request {row.id} is {row.state} already.")
    return row


def _shown(row: GrantRequestRow) -> GrantRequest:
    return GrantRequest.model_validate(row, from_attributes=True)
