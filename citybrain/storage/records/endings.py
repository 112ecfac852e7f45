"""How algorithms and versions end: retired with notice, or withdrawn as a mistake and deleted."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from citybrain.core.errors import Conflict
from citybrain.core.names import RETIRED
from citybrain.core.schemas import Actor
from citybrain.core.schemas.history import Caller, Retirement, VersionEnd
from citybrain.storage.database import Database, bump, lock
from citybrain.storage.history_tables import RetirementRow, VersionEndRow
from citybrain.storage.moments import now
from citybrain.storage.records.aliases import decide, latest_aliases, move_alias
from citybrain.storage.records.audit import note
from citybrain.storage.records.closed import (
    refuse_withdrawn,
    retired_versions,
    withdrawn_reasons,
)
from citybrain.storage.records.notices import tell_users
from citybrain.storage.tables import DeploymentRow, PromotionRow, RequestRow


class Endings:
    """Retirements and withdrawals; the newest row about a version is the truth."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def retirements(self, algorithm: str = "") -> list[Retirement]:
        """Every retirement in force."""
        keys = (RetirementRow.algorithm, RetirementRow.version)
        newest = select(func.max(RetirementRow.id)).group_by(*keys)
        if algorithm:
            newest = newest.where(RetirementRow.algorithm == algorithm)
        query = select(RetirementRow).where(
            RetirementRow.id.in_(newest), RetirementRow.kind == RETIRED
        )
        with self._database.read() as session:
            rows = session.scalars(query.order_by(*keys))
            return [Retirement.model_validate(row, from_attributes=True) for row in rows]

    def retire(
        self, algorithm: str, version: int, sunset: datetime, replacement: str, actor: Actor
    ) -> Retirement:
        """Give notice; a version gets the alias `retired`."""
        with self._database.write() as session:
            lock(session, algorithm)
            if version in retired_versions(session, algorithm):
                raise Conflict(
                    f"{_name(algorithm, version)} is retired already.",
                    hint=f"Change it by undoing it first: citybrain retire "
                    f"{_name(algorithm, version)} --undo",
                )
            row = RetirementRow(
                algorithm=algorithm, version=version, kind=RETIRED, sunset=sunset,
                replacement=replacement, moved_by=actor.key, at=now(),
            )  # fmt: skip
            session.add(row)
            note(
                session, actor, "algorithm.retire", _name(algorithm, version),
                sunset=sunset.isoformat(), replacement=replacement,
            )  # fmt: skip
            _mark(session, algorithm, version, version, actor)
            tell_users(session, algorithm, "algorithm.retires", version=version,
                       sunset=sunset.isoformat(), replacement=replacement)  # fmt: skip
            bump(session)
            return Retirement.model_validate(row, from_attributes=True)

    def undo(self, algorithm: str, version: int, actor: Actor) -> None:
        """Take the notice back."""
        with self._database.write() as session:
            lock(session, algorithm)
            if version not in retired_versions(session, algorithm):
                raise Conflict(f"{_name(algorithm, version)} is not retired.")
            session.add(
                RetirementRow(
                    algorithm=algorithm, version=version, kind="undone", sunset=None,
                    replacement="", moved_by=actor.key, at=now(),
                )
            )  # fmt: skip
            session.flush()
            note(session, actor, "algorithm.unretire", _name(algorithm, version))
            tell_users(session, algorithm, "algorithm.stays", version=version)
            if latest_aliases(session, algorithm).get(RETIRED) == version:
                ends = withdrawn_reasons(session, algorithm)
                retired = retired_versions(session, algorithm)
                still = [v for v in retired if v and v not in ends]
                _mark(session, algorithm, version, next(iter(still), 0), actor)
            bump(session)

    def ends(self, algorithm: str = "") -> list[VersionEnd]:
        """Withdrawn and deleted versions, in the order of the acts."""
        query = select(VersionEndRow).order_by(VersionEndRow.id)
        if algorithm:
            query = query.where(VersionEndRow.algorithm == algorithm)
        with self._database.read() as session:
            rows = session.scalars(query)
            return [VersionEnd.model_validate(row, from_attributes=True) for row in rows]

    def withdraw(
        self, algorithm: str, version: int, digest: str, reason: str, actor: Actor
    ) -> VersionEnd:
        """Close a version for promotion and deployment, if nobody relies on it.

        Its aliases other than `champion` end, and so do its waiting promotions.
        """
        name = f"{algorithm}@{version}"
        with self._database.write() as session:
            lock(session, algorithm)
            refuse_withdrawn(session, algorithm, version)
            aliases = [a for a, v in latest_aliases(session, algorithm).items() if v == version]
            if "champion" in aliases:
                raise Conflict(
                    f"{name} is the champion.",
                    hint=f"Go back first: citybrain rollback {algorithm}",
                )
            query = select(DeploymentRow).where(DeploymentRow.algorithm == algorithm)
            for row in session.scalars(query):
                used = (row.version, row.running.get("version", 0))
                if row.target in (*aliases, str(version)) or version in used:
                    raise Conflict(
                        f"{name} is deployed as {algorithm}@{row.target}.",
                        hint=f"Take it down first: citybrain deploy {algorithm}@{row.target} "
                        "--remove",
                    )
            for alias in aliases:
                move_alias(session, algorithm, alias, 0, version, "withdrawn", actor)
            waiting = select(PromotionRow).where(
                PromotionRow.algorithm == algorithm, PromotionRow.version == version,
                PromotionRow.state == "waiting",
            )  # fmt: skip
            for promotion in session.scalars(waiting):
                decide(session, promotion, "withdrawn", actor)
            return _end(session, algorithm, version, "withdrawn", digest, reason, actor)

    def delete(self, algorithm: str, version: int, digest: str, actor: Actor) -> VersionEnd:
        """Write the deletion of a withdrawn version down; saying it twice is no error."""
        with self._database.write() as session:
            lock(session, algorithm)
            query = select(VersionEndRow).where(
                VersionEndRow.algorithm == algorithm, VersionEndRow.version == version
            )
            found = {row.kind: row for row in session.scalars(query)}
            if "withdrawn" not in found:
                raise Conflict(
                    f"{algorithm}@{version} is not withdrawn.",
                    hint=f"First: citybrain withdraw {algorithm}@{version} --reason TEXT",
                )
            if "deleted" in found:
                return VersionEnd.model_validate(found["deleted"], from_attributes=True)
            return _end(session, algorithm, version, "deleted", digest, "", actor)

    def callers(self, algorithm: str, version: int, since: datetime) -> list[Caller]:
        """Departments and keys that called since then, most calls first."""
        calls = func.count().label("calls")
        query = (
            select(RequestRow.department, RequestRow.key, calls, func.max(RequestRow.at))
            .where(RequestRow.algorithm == algorithm, RequestRow.at >= since)
            .group_by(RequestRow.department, RequestRow.key)
            .order_by(calls.desc(), RequestRow.department, RequestRow.key)
        )
        if version:
            query = query.where(RequestRow.version == version)
        with self._database.read() as session:
            return [
                Caller(department=department, key=key, requests=count, last=last)
                for department, key, count, last in session.execute(query)
            ]


def _end(
    session: Session, algorithm: str, version: int, kind: str, digest: str, reason: str,
    actor: Actor,
) -> VersionEnd:  # fmt: skip
    row = VersionEndRow(
        algorithm=algorithm, version=version, kind=kind, digest=digest, reason=reason,
        moved_by=actor.key, at=now(),
    )  # fmt: skip
    session.add(row)
    act = "version.withdraw" if kind == "withdrawn" else "version.delete"
    note(session, actor, act, f"{algorithm}@{version}", digest=digest, reason=reason)
    session.flush()
    return VersionEnd.model_validate(row, from_attributes=True)


def _mark(session: Session, algorithm: str, version: int, target: int, actor: Actor) -> None:
    """Point the alias `retired`; the retirement of a whole algorithm has no version to mark."""
    before = latest_aliases(session, algorithm).get(RETIRED, 0)
    if version and before != target:
        move_alias(session, algorithm, RETIRED, target, before, "retired", actor)


def _name(algorithm: str, version: int) -> str:
    return f"{algorithm}@{version}" if version else algorithm
