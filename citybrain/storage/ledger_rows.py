"""Calls as rows of the ledger, the platform's most frequent write."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from citybrain.storage.journal import Admitted, Settled
from citybrain.storage.tables import RequestRow

COLUMNS = (
    "request_id", "at", "key", "department", "algorithm", "version", "purpose", "door", "state",
    "status", "rows", "micros", "unit", "amount", "work_micros", "scenario",
)  # fmt: skip
SQLITE = (
    'INSERT INTO requests (request_id, at, "key", department, algorithm, version, purpose, door,'
    ' state, status, "rows", micros, unit, amount, work_micros, scenario)'
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


class _Moments(dict[int, datetime]):
    """Milliseconds as moments; the calls of a frame share theirs."""

    def __missing__(self, at_ms: int) -> datetime:
        self[at_ms] = found = datetime.fromtimestamp(at_ms / 1000, UTC)
        return found


class _Texts(dict[int, str]):
    """Milliseconds as SQLAlchemy writes moments into SQLite."""

    def __missing__(self, at_ms: int) -> str:
        moment = datetime.fromtimestamp(at_ms / 1000, UTC)
        self[at_ms] = found = moment.strftime("%Y-%m-%d %H:%M:%S.%f")
        return found


def write_rows(session: Session, records: list[Settled]) -> None:
    """New rows, below the ORM; on SQLite also past SQLAlchemy's care for each value.

    That care was half of what a row cost the loader.
    """
    connection = session.connection()
    if connection.dialect.name == "sqlite":
        texts = _Texts()
        connection.exec_driver_sql(SQLITE, [_row(r, texts[r.at_ms]) for r in records])
    else:
        moments = _Moments()
        rows = [dict(zip(COLUMNS, _row(r, moments[r.at_ms]), strict=True)) for r in records]
        connection.execute(insert(RequestRow), rows)


def _row(r: Settled, at: datetime | str) -> tuple[Any, ...]:
    (
        request_id, _, key, department, algorithm, purpose, door, version, status, rows, micros,
        _, work, calls, _, _, _, _, _, unit, amount, scenario,
    ) = r  # fmt: skip
    state = "SERVED" if status == 200 else "FAILED"
    return (
        request_id, at, key, department, algorithm, version, purpose, door, state, status, rows,
        micros, unit, amount, work // (calls or 1), scenario,
    )  # fmt: skip


def void_row(r: Admitted) -> dict[str, Any]:
    """A call that was admitted and never settled."""
    return {
        "request_id": r.request_id, "at": datetime.fromtimestamp(r.at_ms / 1000, UTC),
        "key": r.key, "department": r.department, "algorithm": r.algorithm, "version": 0,
        "purpose": r.purpose, "door": r.door, "state": "VOID", "status": 0, "rows": 0, "micros": 0,
    }  # fmt: skip
