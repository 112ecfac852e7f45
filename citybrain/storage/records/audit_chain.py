"""Whether the audit trail is as it was written: the chain, and the checkpoints that were signed of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Select, delete, func, select, text

from citybrain.core.schemas import Actor
from citybrain.core.schemas.audits import Checkpoint, Verification
from citybrain.storage.append_only import may_delete
from citybrain.storage.audit_tables import AuditRow, CheckpointRow
from citybrain.storage.database import Database, lock
from citybrain.storage.moments import now
from citybrain.storage.records.audit import link, note

BATCH = 20_000
LEAST_DAYS = 184
"""How long an entry is kept at least, whatever anybody says: six months, as the law has it."""
EXPIRED = "audit.expire"
REPEATED = ("actor", "department", "action", "object")
"""What the columns repeat of a record."""


class Entry(NamedTuple):
    """A row as it lies in the database or in an export."""

    id: int
    record: str
    hash: str
    columns: dict[str, Any]
    """What stands beside the record; empty in an export."""


def rows(database: Database, *, after: int = 0, until: int = 0) -> Iterator[Entry]:
    """All chained entries in their order, read in pieces, below the ORM."""
    query = text(
        "SELECT id, record, hash, actor, department, action, object, detail, at FROM audit"
        " WHERE id > :after AND record != '' AND (:until = 0 OR id <= :until)"
        " ORDER BY id LIMIT :limit"
    )
    while True:
        said = {"after": after, "until": until, "limit": BATCH}
        with database.read() as session:
            found = session.execute(query, said).all()
        for row in found:
            yield Entry(
                row[0],
                row[1],
                row[2],
                dict(zip((*REPEATED, "detail", "at"), row[3:9], strict=True)),
            )
        if len(found) < BATCH:
            return
        after = found[-1][0]


def exported(lines: Iterable[str]) -> Iterator[Entry]:
    """The entries of an auditor's export."""
    for line in lines:
        found = orjson.loads(line)
        yield Entry(int(found["id"]), str(found["record"]), str(found["hash"]), {})


def verify(
    entries: Iterable[Entry], checkpoints: Iterable[Checkpoint] = (),
    signed: Callable[[Checkpoint], bool] = lambda _: True, *, part: bool = False,
) -> Verification:  # fmt: skip
    """Walk the chain; the first entry that is not as it was written, and why.

    With checkpoints, each must be signed and be met on the way, so that a cut tail and a chain that was
    built anew are found too. A trail may begin behind a checkpoint if one of its entries says that what was
    before has expired; `part`: what is walked ends before that entry.
    """
    due = {point.last: point for point in checkpoints}
    for point in due.values():
        if not signed(point):
            return _bad(
                0, point.last, f"the checkpoint of {point.day} is not signed by this platform"
            )
    count, last, previous, gone, told = 0, 0, "", None, part
    for entry in entries:
        if not last and (gone := _gone_before(entry, due)):
            count, last, previous = gone.count, gone.last, gone.hash
            due = {number: point for number, point in due.items() if number > last}
        if entry.id <= last:
            return _bad(count, entry.id, "it stands twice, or out of order")
        if link(previous, entry.record.encode()) != entry.hash:
            return _bad(count, entry.id, "its hash does not follow from the entry before")
        if entry.columns and (column := _differs(entry)):
            return _bad(count, entry.id, f"its {column} is not what its record says")
        count, last, previous = count + 1, entry.id, entry.hash
        if (met := due.pop(last, None)) and (met.hash != previous or met.count != count):
            return _bad(count, last, f"the checkpoint of {met.day} says otherwise")
        if gone and not told and EXPIRED in entry.record:
            told = _tells(orjson.loads(entry.record), gone)
    if due:
        missing = min(due)
        return _bad(count, missing, "a checkpoint knows it, and it is not there")
    if gone and not told:
        why = f"all up to the checkpoint of {gone.day} is gone, and nothing says that it expired"
        return _bad(count, gone.last, why)
    walked = count - (gone.count if gone else 0)
    return Verification(intact=True, count=walked, last=last, hash=previous)


def _gone_before(first: Entry, due: dict[int, Checkpoint]) -> Checkpoint | None:
    """The checkpoint that the first entry follows; None: it begins the trail, or follows nothing."""
    record = first.record.encode()
    if link("", record) == first.hash:
        return None
    point = due.get(max((number for number in due if number < first.id), default=0))
    return point if point and link(point.hash, record) == first.hash else None


def _tells(said: dict[str, Any], gone: Checkpoint) -> bool:
    """Whether an entry says that what a checkpoint covers has expired, and it was old enough."""
    detail = said["detail"]
    if said["action"] != EXPIRED or (detail["last"], detail["hash"]) != (gone.last, gone.hash):
        return False
    at, day = date.fromisoformat(said["at"][:10]), date.fromisoformat(gone.day)
    return (at - day).days >= LEAST_DAYS - 1  # the day is the city's, the moment is UTC


def _bad(count: int, place: int, reason: str) -> Verification:
    return Verification(
        intact=False, count=count, last=place, hash="", first_bad=place, reason=reason
    )


def _differs(entry: Entry) -> str:
    said = orjson.loads(entry.record)
    for name in REPEATED:
        if said[name] != entry.columns[name]:
            return name
    detail = entry.columns["detail"]
    if (orjson.loads(detail) if isinstance(detail, str) else detail) != said["detail"]:
        return "detail"
    at = entry.columns["at"]
    shown = at if isinstance(at, str) else at.isoformat()
    return "" if said["at"][:19].replace("T", " ") == shown[:19].replace("T", " ") else "time"


class Chain:
    """Checkpoints: how far the chain was, in the platform's own hand."""

    def __init__(self, database: Database, sign: Callable[[str], str]) -> None:
        self._database = database
        self._sign = sign

    def checkpoints(self) -> list[Checkpoint]:
        """All of them, oldest first."""
        with self._database.read() as session:
            found = session.scalars(select(CheckpointRow).order_by(CheckpointRow.id))
            return [Checkpoint.model_validate(row, from_attributes=True) for row in found]

    def checkpoint(self, day: str) -> Checkpoint | None:
        """Sign how far the chain is; None where it is no further than the last one says."""
        with self._database.write() as session:
            newest = session.scalars(
                select(AuditRow).where(AuditRow.record != "").order_by(AuditRow.id.desc()).limit(1)
            ).first()
            before = session.scalars(_newest_point()).first()
            last, known = (before.last, before.count) if before else (0, 0)
            if newest is None or newest.id <= last:
                return None
            fresh = session.scalar(
                select(func.count()).select_from(AuditRow)
                .where(AuditRow.record != "", AuditRow.id > last, AuditRow.id <= newest.id)
            )  # fmt: skip
            count = known + int(fresh or 0)
            said = statement(day, newest.id, newest.hash, count)
            row = CheckpointRow(
                day=day, last=newest.id, hash=newest.hash, count=count,
                signed=self._sign(said), at=now(),
            )  # fmt: skip
            session.add(row)
            session.flush()
            return Checkpoint.model_validate(row, from_attributes=True)

    def due(self, before: datetime) -> Checkpoint | None:
        """The oldest checkpoint from before a moment whose entries are still there."""
        before = min(before, now() - timedelta(days=LEAST_DAYS))
        with self._database.read() as session:
            first = session.scalar(select(func.min(AuditRow.id)))
            if first is None:
                return None
            query = select(CheckpointRow).where(CheckpointRow.at < before)
            query = query.where(CheckpointRow.last >= first).order_by(CheckpointRow.id).limit(1)
            row = session.scalars(query).first()
            return Checkpoint.model_validate(row, from_attributes=True) if row else None

    def expire(self, point: Checkpoint, actor: Actor) -> int:
        """Remove the entries that a checkpoint covers, and say so in the same transaction."""
        with self._database.write() as session:
            lock(session, "audit")
            with may_delete(session, AuditRow.__tablename__):
                gone = session.execute(delete(AuditRow).where(AuditRow.id <= point.last))
            removed = int(gone.rowcount)  # type: ignore[attr-defined]
            note(session, actor, EXPIRED, "audit", day=point.day, last=point.last, hash=point.hash,
                 count=point.count, removed=removed)  # fmt: skip
            return removed

    def newest_day(self) -> str:
        """The day of the last checkpoint."""
        with self._database.read() as session:
            query = select(CheckpointRow.day).order_by(CheckpointRow.id.desc()).limit(1)
            return session.scalar(query) or ""


def _newest_point() -> Select[CheckpointRow]:
    return select(CheckpointRow).order_by(CheckpointRow.last.desc()).limit(1)


def statement(day: str, last: int, digest: str, count: int) -> str:
    """What is signed of a checkpoint."""
    return json.dumps(["audit-checkpoint", day, last, digest, count], separators=(",", ":"))


def export(database: Database, since: datetime | None, until: datetime | None) -> Iterator[str]:
    """Every entry between two moments, a JSON line each; whole, it can be verified elsewhere."""
    for entry in rows(database):
        at = datetime.fromisoformat(orjson.loads(entry.record)["at"])
        if (since is None or at >= since) and (until is None or at <= until):
            said = {"id": entry.id, "record": entry.record, "hash": entry.hash}
            yield orjson.dumps(said).decode() + "\n"
