"""Refusals of requests become entries of the audit trail: one for each kind and minute, with their number.

Every process writes its own to `HOME/denials`, as gateways do with the usage of calls. A minute is folded
when it is over, or at once where its writer is gone; entries and offsets are one transaction, so each line is
counted once.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from citybrain.core.schemas import Actor
from citybrain.storage.database import Database
from citybrain.storage.journal import Denial, is_finished, journals, read_denials
from citybrain.storage.records.audit import DENIED, note
from citybrain.storage.tables import JournalRow

MINUTE = 60_000
AHEAD = MINUTE
"""A line that is further in the future than this is of a clock that was wrong, and is not waited for."""
PREFIX = "denials/"
ALL = 1 << 62


class DenialLog:
    """The loader of all processes' denials."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self, folder: Path) -> int:
        """Fold what is due; returns how many entries that made."""
        moment = time.time_ns() // 1_000_000
        begun, later = moment - moment % MINUTE, moment + AHEAD
        done: list[Path] = []
        found: list[Denial] = []
        offsets: dict[str, int] = {}
        with self._database.read() as session:
            marks = _marks(session)
        for path in journals(folder):
            finished = is_finished(path)  # asked before the last read, never after
            offset = reached = marks.get(path.name, 0)
            before, size = (ALL if finished else begun), path.stat().st_size
            while offset < size:
                some, offset = read_denials(path, reached, before_ms=before, until_ms=later)
                if offset == reached:
                    break
                found, reached = found + some, offset
            if reached != marks.get(path.name, 0):
                offsets[path.name] = reached
            if finished:
                done.append(path)
        entries = merged(found)
        if offsets:
            with self._database.write() as session:
                for name, offset in offsets.items():
                    session.merge(JournalRow(file=PREFIX + name, offset=offset))
                for denial, until_ms in entries:
                    _write(session, denial, until_ms)
        for path in done:  # first the file, then its offset: nothing is read twice
            path.unlink()
        if done:
            with self._database.write() as session:
                names = [PREFIX + path.name for path in done]
                session.execute(delete(JournalRow).where(JournalRow.file.in_(names)))
        return len(entries)


def merged(denials: Iterable[Denial]) -> list[tuple[Denial, int]]:
    """Those of one kind and minute as one, and when the last of them came (ms)."""
    found: dict[tuple[object, ...], tuple[Denial, int]] = {}
    for one in denials:
        kind = (one.at_ms // MINUTE, one.key or one.source, one.action, one.target, one.code)
        seen, until = found.get(kind, (one._replace(calls=0), one.at_ms))
        first = min(seen, one, key=lambda denial: denial.at_ms)
        found[kind] = first._replace(calls=seen.calls + one.calls), max(until, one.at_ms)
    return list(found.values())


def _marks(session: Session) -> dict[str, int]:
    rows = session.scalars(select(JournalRow).where(JournalRow.file.startswith(PREFIX)))
    return {row.file.removeprefix(PREFIX): row.offset for row in rows}


def _write(session: Session, denial: Denial, until_ms: int) -> None:
    who: dict[str, Any] = {
        "key": denial.key, "department": denial.department, "role": denial.role,
        "user": denial.person, "source": denial.source,
    }  # fmt: skip
    actor = Actor.model_construct(**who)  # not checked: a stranger has no role
    note(
        session, actor, denial.action, denial.target, result=DENIED, code=denial.code,
        calls=denial.calls, purpose=denial.purpose, door=denial.door,
        since=_moment(denial.at_ms), until=_moment(until_ms),
    )  # fmt: skip


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1e3, UTC)
