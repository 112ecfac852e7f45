"""Departments, keys and grants."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from citybrain.core.errors import Conflict, NameTaken, RowNotFound
from citybrain.core.schemas import (
    Actor,
    Department,
    DepartmentChange,
    Grant,
    Key,
    NewDepartment,
    NewGrant,
    NewKey,
    NewRotation,
)
from citybrain.storage.database import Database, lock
from citybrain.storage.grant_tables import GrantRow
from citybrain.storage.moments import now
from citybrain.storage.people_tables import DepartmentRow, KeyRow
from citybrain.storage.records.audit import note
from citybrain.storage.records.departments import TREE, below, check_place, tier_below
from citybrain.storage.records.notices import tell
from citybrain.storage.records.past import note_grant


class People:
    """Who may do what."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def departments(self, under: str = "") -> list[Department]:
        """All departments by name, or one with all that are below it."""
        with self._database.read() as session:
            rows = session.scalars(select(DepartmentRow).order_by(DepartmentRow.name))
            found = [Department.model_validate(row, from_attributes=True) for row in rows]
        names = below({one.name: one.parent for one in found}, under) if under else None
        return [one for one in found if names is None or one.name in names]

    def add_department(self, new: NewDepartment, actor: Actor) -> Department:
        """Add one; NameTaken when it is there."""
        with self._database.write() as session:
            lock(session, TREE)
            if session.get(DepartmentRow, new.name) is not None:
                raise NameTaken(f"The department {new.name} exists.")
            row = DepartmentRow(
                name=new.name, title_zh=new.title_zh or new.name,
                title_en=new.title_en or new.name, parent=new.parent, created_at=now(),
                tier=new.tier or tier_below(session, new.parent),
            )  # fmt: skip
            check_place(session, row)
            session.add(row)
            note(session, actor, "department.add", new.name, parent=row.parent, tier=row.tier)
            return Department.model_validate(row, from_attributes=True)

    def change_department(self, name: str, change: DepartmentChange, actor: Actor) -> Department:
        """Give one another title, or another place in the tree."""
        said = change.model_dump(exclude_none=True)
        with self._database.write() as session:
            lock(session, TREE)
            row = session.get(DepartmentRow, name)
            if row is None:
                raise RowNotFound(f"There is no department {name[:63]}.")
            for field, value in said.items():
                setattr(row, field, value)
            check_place(session, row)
            note(session, actor, "department.change", name, **said)
            return Department.model_validate(row, from_attributes=True)

    def keys(self, department: str = "") -> list[Key]:
        """Keys, of one department or of all; never their secrets."""
        query = select(KeyRow).where(KeyRow.user == "").order_by(KeyRow.created_at)
        if department:
            query = query.where(KeyRow.department == department)
        with self._database.read() as session:
            return [Key.model_validate(row, from_attributes=True) for row in session.scalars(query)]

    def add_key(self, new: NewKey, key_id: str, digest: str, actor: Actor) -> Key:
        """Keep an issued key's id and hash."""
        with self._database.write() as session:
            if session.get(DepartmentRow, new.department) is None:
                raise RowNotFound(
                    f"There is no department {new.department}.",
                    hint=f"Add it: citybrain departments add {new.department}",
                )
            row = KeyRow(
                id=key_id, department=new.department, role=new.role, digest=digest,
                purposes=list(new.purposes), note=new.note, created_at=now(),
                expires_at=new.expires_at, revoked_at=None, user="", scopes=list(new.scopes),
                networks=list(new.networks), level=new.level, successor="",
            )  # fmt: skip
            session.add(row)
            note(
                session,
                actor,
                "key.issue",
                key_id,
                department=new.department,
                role=new.role,
                level=new.level,
                scopes=new.scopes,
            )
            return Key.model_validate(row, from_attributes=True)

    def revoke_key(self, key_id: str, actor: Actor) -> Key:
        """End a key; gateways refuse it within a second."""
        with self._database.write() as session:
            row = _service_key(session, key_id)
            if key_id == actor.key:
                raise Conflict("A key cannot revoke itself.", hint="Use another admin key.")
            row.revoked_at = row.revoked_at or now()
            note(session, actor, "key.revoke", key_id)
            return Key.model_validate(row, from_attributes=True)

    def key(self, key_id: str) -> Key:
        """One service key, living or not, or RowNotFound."""
        with self._database.read() as session:
            return Key.model_validate(_service_key(session, key_id), from_attributes=True)

    def rotate_key(
        self, key_id: str, new_id: str, digest: str, new: NewRotation, actor: Actor
    ) -> Key:
        """A new key with the same rights; the old one ends after the overlap, which may be none."""
        with self._database.write() as session:
            lock(session, f"key {key_id}")
            row = _service_key(session, key_id)
            moment = now()
            if row.revoked_at or (row.expires_at and row.expires_at <= moment):
                raise Conflict(f"The key {key_id} has ended.", hint="Issue a new one.")
            if row.successor:
                raise Conflict(f"The key {key_id} was replaced by {row.successor} already.")
            same = ("department", "role", "purposes", "note", "scopes", "networks", "level")
            fresh = KeyRow(
                **{name: getattr(row, name) for name in same}, id=new_id, digest=digest,
                created_at=moment, expires_at=new.expires_at or row.expires_at, revoked_at=None,
                user="", successor="",
            )  # fmt: skip
            session.add(fresh)
            end = moment + timedelta(seconds=new.overlap_seconds)
            row.successor, row.expires_at = new_id, min(end, row.expires_at or end)
            note(session, actor, "key.rotate", key_id, successor=new_id,
                 overlap_seconds=new.overlap_seconds)  # fmt: skip
            return Key.model_validate(fresh, from_attributes=True)

    def grants(self, department: str = "") -> list[Grant]:
        """Grants, of one department or of all."""
        query = select(GrantRow).order_by(GrantRow.created_at)
        if department:
            query = query.where(GrantRow.department == department)
        with self._database.read() as session:
            return [
                Grant.model_validate(row, from_attributes=True) for row in session.scalars(query)
            ]

    def add_grant(self, new: NewGrant, actor: Actor) -> Grant:
        """Let a department call an algorithm; an equal living grant is returned as it is."""
        with self._database.write() as session:
            if session.get(DepartmentRow, new.department) is None:
                raise RowNotFound(f"There is no department {new.department}.")
            same = select(GrantRow).where(
                GrantRow.department == new.department, GrantRow.algorithm == new.algorithm,
                GrantRow.purpose == new.purpose, GrantRow.revoked_at.is_(None),
            )  # fmt: skip
            for row in session.scalars(same):
                if row.until == new.until:
                    return Grant.model_validate(row, from_attributes=True)
            row = GrantRow(
                id=uuid.uuid4().hex[:12], department=new.department, algorithm=new.algorithm,
                purpose=new.purpose, granted_by=actor.key, created_at=now(), until=new.until,
                revoked_at=None, kind=new.kind, scenario=new.scenario, basis=new.basis,
                columns=list(new.columns),
            )  # fmt: skip
            session.add(row)
            note_grant(session, row, "given", actor.key, row.created_at)
            note(
                session,
                actor,
                "grant.give",
                new.algorithm,
                **new.model_dump(mode="json"),
            )
            return Grant.model_validate(row, from_attributes=True)

    def revoke_grant(self, grant_id: str, actor: Actor) -> Grant:
        """End a grant; gateways refuse the next call within a second."""
        with self._database.write() as session:
            row = session.get(GrantRow, grant_id)
            if row is None:
                raise RowNotFound(f"There is no grant {grant_id[:40]}.")
            if row.revoked_at is None:
                row.revoked_at = now()
                note_grant(session, row, "revoked", actor.key, row.revoked_at)
                tell(session, row.department, "grant.ended", row.algorithm, grant=row.id,
                     purpose=row.purpose)  # fmt: skip
            note(session, actor, "grant.end", grant_id, algorithm=row.algorithm)
            return Grant.model_validate(row, from_attributes=True)

    def shown_key(self, digest: str, at: datetime) -> Key | None:
        """The living key with this hash."""
        return self._living(KeyRow.digest == digest, at)

    def living_key(self, key_id: str, at: datetime) -> Key | None:
        """The living key with this id."""
        return self._living(KeyRow.id == key_id, at)

    def _living(self, named: Any, at: datetime) -> Key | None:
        with self._database.read() as session:
            row = session.scalars(select(KeyRow).where(named, _lives(at))).first()
            return None if row is None else Key.model_validate(row, from_attributes=True)

    def living_keys(self, at: datetime) -> list[tuple[str, Key]]:
        """Hash and key of each key that is neither revoked nor expired."""
        with self._database.read() as session:
            rows = session.scalars(select(KeyRow).where(_lives(at)))
            return [(row.digest, Key.model_validate(row, from_attributes=True)) for row in rows]


def _service_key(session: Session, key_id: str) -> KeyRow:
    row = session.get(KeyRow, key_id)
    if row is None or row.user:
        raise RowNotFound(f"There is no key {key_id[:40]}.", hint="List them: citybrain keys")
    return row


def _lives(at: datetime) -> Any:
    """Neither revoked nor expired."""
    ends = KeyRow.expires_at.is_(None) | (KeyRow.expires_at > at)
    return KeyRow.revoked_at.is_(None) & ends
