"""What was used day by day, beside how far the journals were read for it: what limits are counted from."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import select

from citybrain.storage.database import Database
from citybrain.storage.tables import JournalRow, UsageDayRow


class UsedDay(NamedTuple):
    """What a department used of an algorithm on one day, in calls that were answered."""

    day: str
    department: str
    algorithm: str
    unit: str
    requests: int
    rows: int
    amount: float
    work_micros: int


def used_since(database: Database, day: str) -> tuple[list[UsedDay], dict[str, int]]:
    """Both at one moment: who calls this is the loader, so nobody writes in between."""
    row = UsageDayRow
    query = select(
        row.day, row.department, row.algorithm, row.unit, row.requests - row.failed, row.rows,
        row.amount, row.work_micros,
    ).where(row.day >= day)  # fmt: skip
    with database.read() as session:
        days = [UsedDay(*found) for found in session.execute(query)]
        marks = session.execute(select(JournalRow.file, JournalRow.offset))
        return days, {row.file: row.offset for row in marks}
