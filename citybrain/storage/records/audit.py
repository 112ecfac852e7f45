"""The audit trail: appended in the transaction of the act, each entry chained to the one before.

An entry's `record` is RFC 8785 JSON of all that it says, and its `hash` is SHA-256 of the hash before and
that record. Who changes, removes or inserts a row breaks the chain at that place; who rebuilds all of it
contradicts a signed checkpoint that lies elsewhere (`audit_chain.py`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from datetime import datetime, timedelta
from typing import Any

import rfc8785
from sqlalchemy import event, select
from sqlalchemy.orm import Session

from citybrain.core.schemas import Actor, AuditEntry
from citybrain.storage.audit_tables import AuditRow
from citybrain.storage.database import Database, lock
from citybrain.storage.moments import now

log = logging.getLogger(__name__)
REFUSED = "version.refused"
SETTLED = ("version.sign", "version.withdraw", "version.delete")
"""What somebody does about a version that nobody vouched for."""
QUIET = timedelta(hours=1)
"""How long a refusal of the same version to the same asker, for the same reason, is no news."""
DENIED = "denied"
WAITING = "audit"
SAFE = 2**53


def note(session: Session, actor: Actor, action: str, target: str, /, **detail: Any) -> None:
    """Write one act down; `result` in the detail says `denied` where it was refused."""
    if WAITING not in session.info:
        session.info[WAITING] = []
        event.listen(session, "before_commit", _chain)
    result = str(detail.pop("result", "done"))
    session.info[WAITING].append((now(), actor, action, target, plain(detail), result))


def _chain(session: Session) -> None:
    """Give the entries their places, last of all: nobody waits for the chain longer than a commit takes."""
    waiting, session.info[WAITING] = session.info[WAITING], []
    if not waiting:
        return
    lock(session, "audit")
    newest = select(AuditRow.hash).order_by(AuditRow.id.desc()).limit(1)
    previous = session.scalar(newest) or ""
    for at, actor, action, target, detail, result in waiting:
        record = record_of(at, actor, action, target, detail, result)
        previous = link(previous, record)
        session.add(
            AuditRow(
                at=at, actor=actor.key, department=actor.department, action=action, object=target,
                detail=detail, record=record.decode(), hash=previous,
            )
        )  # fmt: skip
        session.flush()  # in this order


def record_of(
    at: datetime, actor: Actor, action: str, target: str, detail: dict[str, Any], result: str
) -> bytes:
    """What is hashed of an entry."""
    return rfc8785.dumps(
        {
            "at": at.isoformat(), "actor": actor.key, "person": actor.person, "role": actor.role,
            "department": actor.department, "source": actor.source, "action": action,
            "object": target, "result": result, "detail": detail,
        }
    )  # fmt: skip


def link(previous: str, record: bytes) -> str:
    """The hash of an entry behind the one with this hash."""
    return hashlib.sha256(previous.encode() + record).hexdigest()


def plain(value: Any) -> Any:
    """A detail as JSON that is the same for everybody: numbers that JSON does not know become text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if abs(value) < SAFE else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value).encode(errors="replace").decode()


def note_refusal(session: Session, actor: Actor, target: str, reason: str) -> None:
    """A version that nobody vouches for was asked for; what retries it does not fill the trail.

    The line in the log is for whoever watches logs: an alarm, which JSON follows.
    """
    moment = now()
    same = select(AuditRow).where(
        AuditRow.at > moment - QUIET, AuditRow.action == REFUSED,
        AuditRow.object == target, AuditRow.actor == actor.key,
    )  # fmt: skip
    if all(row.detail.get("reason") != reason for row in session.scalars(same)):
        note(session, actor, REFUSED, target, reason=reason)
        told = {"version": target, "asked_by": actor.key, "reason": reason}
        log.error("%s %s", REFUSED, json.dumps(told, ensure_ascii=False))


def write(database: Database, actor: Actor, action: str, target: str, /, **detail: Any) -> None:
    """Write down an act whose truth lies elsewhere than in the database."""
    with database.write() as session:
        note(session, actor, action, target, **detail)


def refusals(database: Database, since: datetime) -> list[AuditEntry]:
    """The newest refusal of each version since then about which nobody has done anything yet."""
    query = select(AuditRow).where(AuditRow.at > since, AuditRow.action.in_((REFUSED, *SETTLED)))
    newest: dict[str, AuditEntry] = {}
    with database.read() as session:
        for row in session.scalars(query.order_by(AuditRow.id)):
            newest[row.object] = AuditEntry.model_validate(row, from_attributes=True)
    return [entry for entry in reversed(newest.values()) if entry.action == REFUSED]


def entries(database: Database, *, after: int = 0, limit: int = 200) -> list[AuditEntry]:
    """The newest entries after this id, newest first."""
    query = select(AuditRow).where(AuditRow.id > after).order_by(AuditRow.id.desc()).limit(limit)
    with database.read() as session:
        return [
            AuditEntry.model_validate(row, from_attributes=True) for row in session.scalars(query)
        ]
