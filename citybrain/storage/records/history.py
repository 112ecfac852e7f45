"""Algorithms as the platform governs them: approval rule, alias moves, promotions."""

from __future__ import annotations

import json
import uuid

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from citybrain.core.errors import AliasMoved, Conflict, DigestMismatch, NotAllowed, RowNotFound
from citybrain.core.names import RETIRED
from citybrain.core.schemas import Actor, AliasMove, Promotion
from citybrain.storage.audit_tables import AuditRow
from citybrain.storage.database import Database, lock
from citybrain.storage.moments import now
from citybrain.storage.records.aliases import (
    CHAMPION,
    OVERTAKEN,
    decide,
    latest_aliases,
    move_alias,
    newest_move,
)
from citybrain.storage.records.audit import note
from citybrain.storage.records.closed import (
    refuse_retired,
    refuse_withdrawn,
    retired_versions,
    withdrawn_reasons,
)
from citybrain.storage.records.notices import tell_users
from citybrain.storage.records.past import note_promotion
from citybrain.storage.records.verdicts import TAKEN_IN
from citybrain.storage.tables import AlgorithmRow, AliasMoveRow, PromotionRow


class History:
    """Who moved which alias when; the latest move of an alias is the truth."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def revision(self) -> int:
        """A number that grows with every alias move."""
        return self._database.revision()

    def note_version(
        self,
        algorithm: str,
        version: int,
        owner: str,
        approval: str,
        actor: Actor,
        digest: str,
        run: str = "",
    ) -> None:
        """Write a registered version down; the algorithm's first sets its owner and rule."""
        with self._database.write() as session:
            before = _registered(session, algorithm, version)
            if before and before.detail["digest"] != digest:
                raise DigestMismatch(
                    f"{algorithm}@{version} was registered with other files.",
                    hint="Somebody wrote to MLflow behind the platform. Register them anew.",
                )
            if session.get(AlgorithmRow, algorithm) is None:
                session.add(
                    AlgorithmRow(name=algorithm, owner=owner, approval=approval, created_at=now())
                )
            note(session, actor, TAKEN_IN, f"{algorithm}@{version}", digest=digest, run=run)

    def registered_digest(self, algorithm: str, version: int) -> str:
        """The digest that a version was registered with, as the audit tells; RowNotFound."""
        with self._database.read() as session:
            if found := _registered(session, algorithm, version):
                return str(found.detail["digest"])
        raise RowNotFound(f"{algorithm}@{version} was never registered.")

    def algorithms(self) -> dict[str, tuple[str, str]]:
        """Owner and approval rule of each algorithm."""
        with self._database.read() as session:
            return {r.name: (r.owner, r.approval) for r in session.scalars(select(AlgorithmRow))}

    def set_approval(self, algorithm: str, approval: str, actor: Actor) -> None:
        """Change how promotions of this algorithm are approved."""
        with self._database.write() as session:
            row = session.get(AlgorithmRow, algorithm)
            if row is None:
                raise RowNotFound(f"There is no algorithm {algorithm}.")
            note(
                session,
                actor,
                "algorithm.approval",
                algorithm,
                before=row.approval,
                to=approval,
            )
            row.approval = approval

    def aliases(self, algorithm: str = "") -> dict[str, dict[str, int]]:
        """Where each alias of each algorithm points now."""
        latest = select(
            AliasMoveRow.algorithm,
            AliasMoveRow.alias,
            func.max(AliasMoveRow.sequence).label("n"),
        ).group_by(AliasMoveRow.algorithm, AliasMoveRow.alias)
        if algorithm:
            latest = latest.where(AliasMoveRow.algorithm == algorithm)
        newest = latest.subquery()
        query = select(AliasMoveRow).join(
            newest,
            (AliasMoveRow.algorithm == newest.c.algorithm)
            & (AliasMoveRow.alias == newest.c.alias)
            & (AliasMoveRow.sequence == newest.c.n),
        )
        found: dict[str, dict[str, int]] = {}
        with self._database.read() as session:
            for row in session.scalars(query):
                if row.version:
                    found.setdefault(row.algorithm, {})[row.alias] = row.version
        return found

    def closed(self, algorithm: str) -> dict[int, str]:
        """The versions that no alias may move to: `withdrawn` or `retired`."""
        with self._database.read() as session:
            retired = {one: RETIRED for one in retired_versions(session, algorithm) if one}
            return retired | dict.fromkeys(withdrawn_reasons(session, algorithm), "withdrawn")

    def moves(self, algorithm: str, alias: str = "") -> list[AliasMove]:
        """The history of an algorithm's aliases, newest first."""
        query = select(AliasMoveRow).where(AliasMoveRow.algorithm == algorithm)
        if alias:
            query = query.where(AliasMoveRow.alias == alias)
        with self._database.read() as session:
            rows = session.scalars(query.order_by(AliasMoveRow.id.desc()))
            return [AliasMove.model_validate(row, from_attributes=True) for row in rows]

    def move(
        self,
        algorithm: str,
        alias: str,
        version: int,
        *,
        expected: int,
        reason: str,
        actor: Actor,
    ) -> AliasMove:
        """Point an alias to a version if it still points where the caller believes (0: nowhere)."""
        try:
            with self._database.write() as session:
                lock(session, algorithm)
                refuse_retired(session, algorithm, version)
                return move_alias(session, algorithm, alias, version, expected, reason, actor)
        except IntegrityError as error:
            raise AliasMoved(f"Somebody else moved {algorithm}@{alias} first.") from error

    def ask(
        self, algorithm: str, alias: str, version: int, evaluation: str, actor: Actor,
        *, source: str = "", expected: int | None = None,
    ) -> Promotion:  # fmt: skip
        """Write down a promotion that waits for its approval; `source`: the alias copied from.

        `expected` is the version that the asker saw behind the alias (0: none).
        """
        with self._database.write() as session:
            lock(session, algorithm)
            if expected is not None:
                newest_move(session, algorithm, alias, expected)
            refuse_withdrawn(session, algorithm, version)
            refuse_retired(session, algorithm, version)
            row = PromotionRow(
                id=uuid.uuid4().hex[:12], algorithm=algorithm, alias=alias, version=version,
                evaluation=evaluation, source=source, state="waiting", asked_by=actor.person,
                decided_by="", at=now(), decided_at=None,
            )  # fmt: skip
            session.add(row)
            if alias == CHAMPION and not _approves_itself(session, algorithm):
                tell_users(session, algorithm, "champion.asked", version=version, promotion=row.id,
                           previous=latest_aliases(session, algorithm).get(alias, 0))  # fmt: skip
            note_promotion(session, row, actor.key, row.at)
            note(session, actor, "promotion.ask", f"{algorithm}@{alias}", version=version,
                 evaluation=evaluation, promotion=row.id, source=source)  # fmt: skip
            return Promotion.model_validate(row, from_attributes=True)

    def approve(self, promotion_id: str, actor: Actor, *, self_allowed: bool) -> Promotion:
        """Approve and move the alias, in one transaction; four eyes unless the rule says self.

        A promotion is about the alias as it was when it was asked for: AliasMoved when it moved.
        """
        try:
            with self._database.write() as session:
                row = _waiting(session, promotion_id)
                own = row.asked_by == actor.person
                if not self_allowed:
                    _check_four_eyes(session, row, actor)
                refuse_retired(session, row.algorithm, row.version)
                current = latest_aliases(session, row.algorithm).get(row.alias, 0)
                reason = f"promotion {row.id}" + (f" from {row.source}" if row.source else "")
                reason += " (self-approved)" if own else ""
                decide(session, row, "done", actor)
                move_alias(session, row.algorithm, row.alias, row.version, current, reason, actor)
                note(session, actor, "promotion.approve", row.id, self_approved=own)
                return Promotion.model_validate(row, from_attributes=True)
        except IntegrityError as error:
            raise AliasMoved("Somebody else moved this alias first.") from error

    def withdraw(self, promotion_id: str, actor: Actor) -> Promotion:
        """Take a waiting promotion back."""
        with self._database.write() as session:
            row = _waiting(session, promotion_id)
            decide(session, row, "withdrawn", actor)
            note(session, actor, "promotion.withdraw", row.id)
            return Promotion.model_validate(row, from_attributes=True)

    def promotion(self, promotion_id: str) -> Promotion:
        """One promotion, or RowNotFound."""
        with self._database.read() as session:
            return Promotion.model_validate(_promotion(session, promotion_id), from_attributes=True)

    def promotions(self, algorithm: str = "", state: str = "") -> list[Promotion]:
        """Promotions, newest first."""
        query = select(PromotionRow).order_by(PromotionRow.at.desc()).limit(200)
        if algorithm:
            query = query.where(PromotionRow.algorithm == algorithm)
        if state:
            query = query.where(PromotionRow.state == state)
        with self._database.read() as session:
            return [
                Promotion.model_validate(row, from_attributes=True)
                for row in session.scalars(query)
            ]


def _approves_itself(session: Session, algorithm: str) -> bool:
    """Whether a promotion is done when it is asked for: then nobody is told twice."""
    row = session.get(AlgorithmRow, algorithm)
    return row is not None and row.approval == "self"


def _promotion(session: Session, promotion_id: str) -> PromotionRow:
    row = session.get(PromotionRow, promotion_id)
    if row is None:
        raise RowNotFound(f"There is no promotion {promotion_id[:40]}.")
    return row


def _waiting(session: Session, promotion_id: str) -> PromotionRow:
    """A promotion that can still be decided, with its algorithm locked."""
    row = _promotion(session, promotion_id)
    lock(session, row.algorithm)
    session.refresh(row)  # somebody may have decided it while we waited
    if row.state == OVERTAKEN:
        version = latest_aliases(session, row.algorithm).get(row.alias, 0)
        raise AliasMoved(
            f"{row.algorithm}@{row.alias} has moved to version {version} since promotion {row.id} "
            "was asked for.",
            hint=f"Look again, then ask again: citybrain promote {row.algorithm}@{row.version} "
            f"--alias {row.alias}",
        )
    if row.state != "waiting":
        raise Conflict(f"Promotion {row.id} is {row.state} already.")
    return row


def _check_four_eyes(session: Session, row: PromotionRow, actor: Actor) -> None:
    """Who approves has neither asked nor registered the version."""
    registered = _registered(session, row.algorithm, row.version)
    if row.asked_by == actor.person:
        who = "who asked"
    elif registered and actor.person in (registered.actor, _person(registered)):
        who = f"who registered version {row.version}"
    else:
        return
    raise NotAllowed(
        f"{row.algorithm} asks for four eyes: {who} cannot approve.",
        hint=f"Another key runs: citybrain promote --approve {row.id}",
    )


def _person(entry: AuditRow) -> str:
    """Who stands behind an entry: the person of a session, else the key."""
    return str(json.loads(entry.record).get("person", "")) if entry.record else entry.actor


def _registered(session: Session, algorithm: str, version: int) -> AuditRow | None:
    """The entry of a version's registration: with which files, and by whom."""
    query = select(AuditRow).where(
        AuditRow.action == TAKEN_IN, AuditRow.object == f"{algorithm}@{version}"
    )
    return session.scalars(query.order_by(AuditRow.id).limit(1)).first()
