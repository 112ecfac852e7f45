"""The quick way into SQLite writes what SQLAlchemy's own way writes."""

from sqlalchemy import insert, text

from citybrain.storage.database import Database
from citybrain.storage.journal import Settled
from citybrain.storage.ledger_rows import COLUMNS, _Moments, _row, write_rows
from citybrain.storage.tables import RequestRow

RECORDS = [
    Settled(f"{n:032x}", at, "k", "health", "flow", "operation", "task", n, status, 2, 2**40 + n)
    for n, (at, status) in enumerate([(1_795_286_929_890, 200), (0, 500), (1_700_000_000_000, 429)])
]


def rows(database):
    with database.read() as session:
        return session.execute(text("SELECT * FROM requests ORDER BY request_id")).all()


def test_both_ways_write_the_same_rows(tmp_path):
    quick, plain = (Database.at(tmp_path / f"{name}.db") for name in ("quick", "plain"))
    for database in (quick, plain):
        database.migrate()
    with quick.write() as session:
        write_rows(session, RECORDS)
    with plain.write() as session:
        moments = _Moments()
        values = [dict(zip(COLUMNS, _row(r, moments[r.at_ms]), strict=True)) for r in RECORDS]
        session.execute(insert(RequestRow), values)
    assert rows(quick) == rows(plain)
    assert len(rows(quick)) == 3
