"""People who sign in, and their sessions: keys that nobody ever saw."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from citybrain.core.errors import Conflict, NameTaken, RowNotFound
from citybrain.core.levels import Level
from citybrain.core.schemas import Actor, Key, NewUser, Role, User, UserChange
from citybrain.core.schemas.people import OPERATION
from citybrain.storage.database import Database
from citybrain.storage.moments import now
from citybrain.storage.people_tables import DepartmentRow, KeyRow, UserRow
from citybrain.storage.records.audit import note

NOBODY = ""
"""The row of everybody who is not known: what is wrong with them takes as long to write down."""
TRIES = 5
"""Wrong ones in a row that lock a person out for a minute; each more doubles it."""
FIRST_LOCK, LONGEST_LOCK = timedelta(minutes=1), timedelta(minutes=15)
KEPT = timedelta(days=30)
"""How long a session that has ended is remembered."""


class Factors(NamedTuple):
    """What a person signs in with, as it is kept."""

    name: str
    department: str
    role: Role
    password: str
    totp: str
    one_time_until: datetime | None
    locked_until: datetime | None
    disabled: bool


class Users:
    """The rows of people."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self) -> list[User]:
        """All people by name."""
        at = now()
        with self._database.read() as session:
            rows = session.scalars(
                select(UserRow).where(UserRow.name != NOBODY).order_by(UserRow.name)
            )
            open_now = select(KeyRow.user, func.count()).where(
                KeyRow.user != "", KeyRow.revoked_at.is_(None), KeyRow.expires_at > at
            )  # fmt: skip
            counted = dict(session.execute(open_now.group_by(KeyRow.user)).tuples().all())
            return [_user(row, counted.get(row.name, 0)) for row in rows]

    def any(self) -> bool:
        """Whether anybody could sign in at all."""
        with self._database.read() as session:
            return session.scalar(select(UserRow.name).where(UserRow.name != NOBODY)) is not None

    def get(self, name: str) -> User:
        """One person, or RowNotFound."""
        with self._database.read() as session:
            return _user(_person(session, name))

    def ready(self, password: Callable[[], str]) -> None:
        """See that the row of everybody unknown is there, with a password that nobody has."""
        with self._database.write() as session:
            if session.get(UserRow, NOBODY) is None:
                session.add(_row(NewUser.model_construct(
                    name=NOBODY, title="", department="", role="department", level=Level.PUBLIC
                ), password(), None, now()))  # fmt: skip

    def add(self, new: NewUser, password: str, until: datetime, actor: Actor) -> User:
        """Let a person in, once by a one-time password."""
        with self._database.write() as session:
            if session.get(UserRow, new.name) is not None:
                raise NameTaken(f"There is a user {new.name} already.")
            _check_department(session, new.department)
            row = _row(new, password, until, None)
            session.add(row)
            note(session, actor, "user.add", new.name, department=new.department, role=new.role,
                 level=new.level)  # fmt: skip
            return _user(row)

    def change(self, name: str, change: UserChange, actor: Actor) -> User:
        """Another department, role, level or title; open sessions end."""
        said = change.model_dump(exclude_none=True)
        with self._database.write() as session:
            row = _person(session, name)
            if change.department:
                _check_department(session, change.department)
            for field, value in said.items():
                setattr(row, field, value)
            _end_sessions(session, name)
            note(session, actor, "user.change", name, **said)
            return _user(row)

    def reset(self, name: str, password: str, until: datetime, actor: Actor) -> User:
        """Begin anew with a one-time password: what was known before, and the codes, count no more."""
        with self._database.write() as session:
            row = _person(session, name)
            _check_other(actor, name)
            row.password, row.one_time_until, row.totp = password, until, ""
            row.failed, row.locked_until = 0, None
            _end_sessions(session, name)
            note(session, actor, "user.reset", name)
            return _user(row)

    def disable(self, name: str, actor: Actor) -> User:
        """Let a person in no more; open sessions end."""
        with self._database.write() as session:
            row = _person(session, name)
            _check_other(actor, name)
            row.disabled_at = row.disabled_at or now()
            _end_sessions(session, name)
            note(session, actor, "user.disable", name)
            return _user(row)

    def enable(self, name: str, actor: Actor) -> User:
        """Let a person in again, with what they had."""
        with self._database.write() as session:
            row = _person(session, name)
            row.disabled_at, row.failed, row.locked_until = None, 0, None
            note(session, actor, "user.enable", name)
            return _user(row)

    def factors(self, name: str) -> Factors:
        """What a person signs in with; of who is not known those of nobody."""
        with self._database.read() as session:
            row = session.get(UserRow, name) or session.get_one(UserRow, NOBODY)
            return Factors(
                row.name, row.department, row.role, row.password, row.totp, row.one_time_until,  # type: ignore[arg-type]
                row.locked_until, row.disabled_at is not None,
            )  # fmt: skip

    def failed(self, name: str) -> None:
        """Another wrong try; the fifth in a row locks for a minute, and more for longer."""
        with self._database.write() as session:
            row = session.get_one(UserRow, name, with_for_update=True)
            row.failed += 1
            if row.failed < TRIES or (row.locked_until and row.locked_until > now()):
                return
            lock = min(FIRST_LOCK * 2 ** min(row.failed - TRIES, 10), LONGEST_LOCK)
            row.locked_until = now() + lock
            if name != NOBODY:
                note(session, _self(row), "user.lock", name, seconds=int(lock.total_seconds()))

    def passed(self, seen: Factors, step: int, fresh: str = "") -> bool:
        """Note a right try; False where something has changed meanwhile, or the code was used.

        `fresh`: the password hashed anew, with today's parameters.
        """
        with self._database.write() as session:
            row = session.get(UserRow, seen.name, with_for_update=True)
            if row is None or not _is_same(row, seen) or (step and step <= row.totp_step):
                return False
            row.password = fresh or row.password
            row.failed, row.locked_until, row.totp_step = 0, None, max(step, row.totp_step)
            return True

    def choose(self, seen: Factors, password: str, totp: str, step: int) -> bool:
        """Keep the password and codes that a person chose; False where they were changed meanwhile."""
        with self._database.write() as session:
            row = session.get(UserRow, seen.name, with_for_update=True)
            if row is None or not _is_same(row, seen):
                return False
            row.password, row.totp, row.one_time_until = password, totp, None
            row.totp_step = max(step, row.totp_step)
            _end_sessions(session, seen.name)
            note(session, _self(row), "user.choose", row.name, second_factor=bool(totp))
            return True

    def open_session(self, name: str, key_id: str, digest: str, until: datetime) -> Key:
        """A key for as long as somebody is signed in."""
        with self._database.write() as session:
            person = _person(session, name)
            long_gone = (KeyRow.user == name) & (KeyRow.expires_at < now() - KEPT)
            session.execute(delete(KeyRow).where(long_gone))
            row = KeyRow(
                id=key_id, department=person.department, role=person.role, digest=digest,
                purposes=[OPERATION], note="", created_at=now(), expires_at=until, revoked_at=None,
                user=name, scopes=[], networks=[], level=person.level, successor="",
            )  # fmt: skip
            session.add(row)
            note(session, _self(person, key_id), "session.open", name)
            return Key.model_validate(row, from_attributes=True)

    def close_session(self, key: Key) -> None:
        """Its person signs out."""
        with self._database.write() as session:
            row = session.get(KeyRow, key.id)
            if row is not None and row.user and row.revoked_at is None:
                row.revoked_at = now()
                note(session, Actor.of(key), "session.close", row.user)


def _row(new: NewUser, password: str, until: datetime | None, disabled: datetime | None) -> UserRow:
    return UserRow(
        name=new.name, title=new.title or new.name, department=new.department, role=new.role,
        level=new.level, password=password, one_time_until=until, totp="", totp_step=0, failed=0,
        locked_until=None, created_at=now(), disabled_at=disabled,
    )  # fmt: skip


def _user(row: UserRow, sessions: int = 0) -> User:
    same = ("name", "title", "department", "role", "level", "one_time_until", "created_at",
            "locked_until", "disabled_at")  # fmt: skip
    told: dict[str, Any] = {field: getattr(row, field) for field in same}
    return User(**told, second_factor=bool(row.totp), sessions=sessions)


def _person(session: Session, name: str) -> UserRow:
    row = session.get(UserRow, name, with_for_update=True) if name != NOBODY else None
    if row is None:
        raise RowNotFound(f"There is no user {name[:63]}.", hint="List them: citybrain users")
    return row


def _check_department(session: Session, name: str) -> None:
    if session.get(DepartmentRow, name) is None:
        raise RowNotFound(
            f"There is no department {name}.", hint=f"Add it: citybrain departments add {name}"
        )


def _check_other(actor: Actor, name: str) -> None:
    if actor.user == name:
        raise Conflict("Nobody does this to themselves.", hint="Another admin does it.")


def _is_same(row: UserRow, seen: Factors) -> bool:
    """Whether a person still signs in with what was looked at."""
    return (
        row.disabled_at is None
        and (row.password, row.totp, row.one_time_until) == (
            seen.password, seen.totp, seen.one_time_until
        )
        and not (row.locked_until and row.locked_until > now())
    )  # fmt: skip


def _end_sessions(session: Session, name: str) -> None:
    for row in session.scalars(select(KeyRow).where(KeyRow.user == name)):
        row.revoked_at = row.revoked_at or now()


def _self(row: UserRow, key: str = "console") -> Actor:
    """A person who acts before, or as, they get a session."""
    return Actor(key=key, department=row.department, role=row.role, user=row.name)
