"""Open the platform database, migrate it, and hand out transactions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Engine, create_engine, event, select, text
from sqlalchemy.orm import Session, UOWTransaction

from citybrain.storage.grant_tables import GrantRow, PinRow, SuspensionRow
from citybrain.storage.people_tables import KeyRow
from citybrain.storage.quota_tables import QuotaRow
from citybrain.storage.tables import DeploymentRow, RevisionRow

SEEN_BY_GATEWAYS = (KeyRow, GrantRow, DeploymentRow, SuspensionRow, PinRow, QuotaRow)


class Database:
    """One engine. `write()` commits at the end or rolls back whole; `read()` never writes."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = _engine(url)

    @classmethod
    def at(cls, path: Path) -> Database:
        """The SQLite database in this file."""
        return cls(f"sqlite:///{path}")

    def age(self) -> Literal["empty", "behind", "current", "newer"]:
        """How the tables stand to this version of the platform."""
        from alembic.runtime.migration import MigrationContext
        from alembic.script import ScriptDirectory

        scripts = ScriptDirectory.from_config(_config())
        with self.engine.connect() as connection:
            found = MigrationContext.configure(connection).get_current_revision()
        if found is None:
            return "empty"
        known = {script.revision for script in scripts.walk_revisions()}
        if found not in known:
            return "newer"
        return "current" if found == scripts.get_current_head() else "behind"

    def migrate(self) -> None:
        """Bring the tables to this version of the platform."""
        from alembic import command

        config = _config()
        with self.engine.begin() as connection:
            if self.engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # all of it or nothing
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that may change things."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            if self.engine.dialect.name == "sqlite":
                # Take the write lock first: a read that turns into a write can be refused at once.
                session.execute(text("BEGIN IMMEDIATE"))
            event.listen(session, "after_flush", _count_revision)
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only looks."""
        with Session(self.engine) as session:
            yield session

    def revision(self) -> int:
        """A number that grows with every change that gateways have to see."""
        with self.read() as session:
            return session.scalar(select(RevisionRow.number).where(RevisionRow.id == 1)) or 0

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _config() -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "citybrain.storage:migrations")
    return config


def lock(session: Session, name: str) -> None:
    """One writer at a time about this name until the transaction ends (SQLite has one anyway)."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": name})


def bump(session: Session) -> None:
    """Tell the gateways to look again."""
    session.execute(text("UPDATE revisions SET number = number + 1 WHERE id = 1"))


def _count_revision(session: Session, _: UOWTransaction) -> None:
    changed = (*session.new, *session.dirty, *session.deleted)
    if any(isinstance(row, SEEN_BY_GATEWAYS) for row in changed):
        bump(session)


def _engine(url: str) -> Engine:
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True, pool_size=10, max_overflow=10)
    engine = create_engine(url, connect_args={"check_same_thread": False, "timeout": 20})

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA busy_timeout=20000")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    return engine
