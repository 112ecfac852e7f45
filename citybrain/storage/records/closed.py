"""Versions that are closed: withdrawn as a mistake, or retired. No alias moves to one."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from citybrain.core.errors import Conflict, VersionWithdrawn
from citybrain.core.names import RETIRED
from citybrain.storage.history_tables import RetirementRow, VersionEndRow


def withdrawn_reasons(session: Session, algorithm: str) -> dict[int, str]:
    """The withdrawn versions of an algorithm, and why."""
    query = select(VersionEndRow.version, VersionEndRow.reason).where(
        VersionEndRow.algorithm == algorithm, VersionEndRow.kind == "withdrawn"
    )
    return {row.version: row.reason.rstrip(".") for row in session.execute(query)}


def retired_versions(session: Session, algorithm: str) -> list[int]:
    """The versions whose retirement is in force, the latest notice first; 0: the whole algorithm."""
    newest = (
        select(func.max(RetirementRow.id))
        .where(RetirementRow.algorithm == algorithm)
        .group_by(RetirementRow.version)
    )
    query = select(RetirementRow.version).where(
        RetirementRow.id.in_(newest), RetirementRow.kind == RETIRED
    )
    return list(session.scalars(query.order_by(RetirementRow.id.desc())))


def refuse_withdrawn(session: Session, algorithm: str, version: int) -> None:
    """Raise VersionWithdrawn for a version that was withdrawn (and perhaps deleted)."""
    reasons = withdrawn_reasons(session, algorithm)
    if version in reasons:
        raise VersionWithdrawn(
            f"{algorithm}@{version} was withdrawn: {reasons[version]}.",
            hint=f"Choose another version: citybrain algorithms {algorithm}",
        )


def refuse_retired(session: Session, algorithm: str, version: int) -> None:
    """Raise Conflict for a version whose callers were told that it ends."""
    if version and version in retired_versions(session, algorithm):
        raise Conflict(
            f"{algorithm}@{version} is retired.",
            hint=f"Take that back first: citybrain retire {algorithm}@{version} --undo",
        )
