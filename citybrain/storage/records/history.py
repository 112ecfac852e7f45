"""Algorithms as the platform governs them: approval rule, alias moves, promotions."""

from __future__ import annotations

import uuid

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from citybrain.core.errors import (
    AliasMoved,
    Conflict,
    DigestMismatch,
    NotAllowed,
    RowNotFound,
    VersionWithdrawn,
)
from citybrain.core.schemas import Actor, AliasMove, Promotion
from citybrain.storage.database import Database, bump, lock
from citybrain.storage.history_tables import VersionEndRow
from citybrain.storage.moments import now
from citybrain.storage.records.audit import note
from citybrain.storage.records.past import note_promotion
from citybrain.storage.tables import AlgorithmRow, AliasMoveRow, AuditRow, PromotionRow


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
    ) -> None:
        """Write a registered version down; the algorithm's first sets its owner and rule."""
        with self._database.write() as session:
            before = _registered(session, algorithm, version)
            if before not in ("", digest):
                raise DigestMismatch(
                    f"{algorithm}@{version} was registered with other files.",
                    hint="Somebody wrote to MLflow behind the platform. Register them anew.",
                )
            if session.get(AlgorithmRow, algorithm) is None:
                session.add(
                    AlgorithmRow(name=algorithm, owner=owner, approval=approval, created_at=now())
                )
            note(
                session,
                actor,
                "version.register",
                f"{algorithm}@{version}",
                digest=digest,
            )

    def registered_digest(self, algorithm: str, version: int) -> str:
        """The digest that a version was registered with, as the audit tells; RowNotFound."""
        with self._database.read() as session:
            if found := _registered(session, algorithm, version):
                return found
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

    def withdrawn(self, algorithm: str) -> dict[int, str]:
        """The withdrawn versions of an algorithm, and why."""
        with self._database.read() as session:
            return withdrawn_reasons(session, algorithm)

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
                return move_alias(session, algorithm, alias, version, expected, reason, actor)
        except IntegrityError as error:
            raise AliasMoved(f"Somebody else moved {algorithm}@{alias} first.") from error

    def ask(
        self, algorithm: str, alias: str, version: int, evaluation: str, actor: Actor,
        *, source: str = "",
    ) -> Promotion:  # fmt: skip
        """Write down a promotion that waits for its approval; `source`: the alias copied from."""
        with self._database.write() as session:
            lock(session, algorithm)
            refuse_withdrawn(session, algorithm, version)
            row = PromotionRow(
                id=uuid.uuid4().hex[:12], algorithm=algorithm, alias=alias, version=version,
                evaluation=evaluation, source=source, state="waiting", asked_by=actor.key,
                decided_by="",
                at=now(), decided_at=None,
            )  # fmt: skip
            session.add(row)
            note_promotion(session, row, actor.key, row.at)
            note(session, actor, "promotion.ask", f"{algorithm}@{alias}", version=version,
                 evaluation=evaluation, promotion=row.id, source=source)  # fmt: skip
            return Promotion.model_validate(row, from_attributes=True)

    def approve(self, promotion_id: str, actor: Actor, *, self_allowed: bool) -> Promotion:
        """Approve and move the alias, in one transaction; four eyes unless the rule says self."""
        try:
            with self._database.write() as session:
                row = session.get(PromotionRow, promotion_id)
                if row is None:
                    raise RowNotFound(f"There is no promotion {promotion_id[:40]}.")
                if row.state != "waiting":
                    raise Conflict(f"Promotion {row.id} is {row.state} already.")
                own = row.asked_by == actor.key
                if own and not self_allowed:
                    raise NotAllowed(
                        f"{row.algorithm} asks for four eyes: who asked cannot approve.",
                        hint=f"Another key runs: citybrain promote --approve {row.id}",
                    )
                current = latest_aliases(session, row.algorithm).get(row.alias, 0)
                reason = f"promotion {row.id}" + (f" from {row.source}" if row.source else "")
                reason += " (self-approved)" if own else ""
                move_alias(
                    session,
                    row.algorithm,
                    row.alias,
                    row.version,
                    current,
                    reason,
                    actor,
                )
                moment = now()
                row.state, row.decided_by, row.decided_at = "done", actor.key, moment
                note_promotion(session, row, actor.key, moment)
                note(session, actor, "promotion.approve", row.id, self_approved=own)
                return Promotion.model_validate(row, from_attributes=True)
        except IntegrityError as error:
            raise AliasMoved("Somebody else moved this alias first.") from error

    def withdraw(self, promotion_id: str, actor: Actor) -> Promotion:
        """Take a waiting promotion back."""
        with self._database.write() as session:
            row = session.get(PromotionRow, promotion_id)
            if row is None:
                raise RowNotFound(f"There is no promotion {promotion_id[:40]}.")
            if row.state != "waiting":
                raise Conflict(f"Promotion {row.id} is {row.state} already.")
            moment = now()
            row.state, row.decided_by, row.decided_at = "withdrawn", actor.key, moment
            note_promotion(session, row, actor.key, moment)
            note(session, actor, "promotion.withdraw", row.id)
            return Promotion.model_validate(row, from_attributes=True)

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


def move_alias(
    session: Session, algorithm: str, alias: str, version: int, expected: int, reason: str,
    actor: Actor,
) -> AliasMove:  # fmt: skip
    """Append a move inside a transaction; version 0 takes the alias away."""
    lock(session, algorithm)
    newest = session.scalars(
        select(AliasMoveRow)
        .where(AliasMoveRow.algorithm == algorithm, AliasMoveRow.alias == alias)
        .order_by(AliasMoveRow.sequence.desc())
        .limit(1)
    ).first()
    previous = newest.version if newest else 0
    if previous != expected:
        raise AliasMoved(
            f"{algorithm}@{alias} points to version {previous}, not {expected}.",
            hint="Look again and repeat what you still want.",
        )
    refuse_withdrawn(session, algorithm, version)
    row = AliasMoveRow(
        algorithm=algorithm, alias=alias, sequence=newest.sequence + 1 if newest else 1,
        version=version, previous=previous, reason=reason, moved_by=actor.key, at=now(),
    )  # fmt: skip
    session.add(row)
    note(session, actor, "alias.move", f"{algorithm}@{alias}", version=version,
         previous=previous, reason=reason)  # fmt: skip
    bump(session)
    session.flush()
    return AliasMove.model_validate(row, from_attributes=True)


def latest_aliases(session: Session, algorithm: str) -> dict[str, int]:
    """Where each alias of an algorithm points, seen from inside a transaction."""
    query = (
        select(AliasMoveRow.alias, AliasMoveRow.version)
        .where(AliasMoveRow.algorithm == algorithm)
        .order_by(AliasMoveRow.sequence)
    )
    newest = {row.alias: row.version for row in session.execute(query)}
    return {alias: version for alias, version in newest.items() if version}


def withdrawn_reasons(session: Session, algorithm: str) -> dict[int, str]:
    """The withdrawn versions of an algorithm, and why."""
    query = select(VersionEndRow.version, VersionEndRow.reason).where(
        VersionEndRow.algorithm == algorithm, VersionEndRow.kind == "withdrawn"
    )
    return {row.version: row.reason.rstrip(".") for row in session.execute(query)}


def refuse_withdrawn(session: Session, algorithm: str, version: int) -> None:
    """Raise VersionWithdrawn for a version that was withdrawn (and perhaps deleted)."""
    reasons = withdrawn_reasons(session, algorithm)
    if version in reasons:
        raise VersionWithdrawn(
            f"{algorithm}@{version} was withdrawn: {reasons[version]}.",
            hint=f"Choose another version: citybrain algorithms {algorithm}",
        )


def _registered(session: Session, algorithm: str, version: int) -> str:
    query = select(AuditRow.detail).where(
        AuditRow.action == "version.register", AuditRow.object == f"{algorithm}@{version}"
    )
    found = session.scalars(query.order_by(AuditRow.id).limit(1)).first()
    return str((found or {}).get("digest", ""))
