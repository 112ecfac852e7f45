"""The audit trail: appended inside the transaction of the act, never changed."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from citybrain.core.schemas import Actor, AuditEntry
from citybrain.storage.database import Database
from citybrain.storage.moments import now
from citybrain.storage.tables import AuditRow


def note(session: Session, actor: Actor, action: str, target: str, **detail: Any) -> None:
    """Write one act down."""
    session.add(
        AuditRow(
            at=now(),
            actor=actor.key,
            department=actor.department,
            action=action,
            object=target,
            detail=detail,
        )
    )


def write(database: Database, actor: Actor, action: str, target: str, **detail: Any) -> None:
    """Write down an act whose truth lies elsewhere than in the database."""
    with database.write() as session:
        note(session, actor, action, target, **detail)


def entries(database: Database, *, after: int = 0, limit: int = 200) -> list[AuditEntry]:
    """The newest entries after this id, newest first."""
    query = select(AuditRow).where(AuditRow.id > after).order_by(AuditRow.id.desc()).limit(limit)
    with database.read() as session:
        return [
            AuditEntry.model_validate(row, from_attributes=True) for row in session.scalars(query)
        ]
