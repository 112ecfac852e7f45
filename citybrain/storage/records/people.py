"""Departments, keys and grants."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import select

from citybrain.core.errors import Conflict, NameTaken, RowNotFound
from citybrain.core.schemas import (
    Actor,
    Department,
    Grant,
    Key,
    NewDepartment,
    NewGrant,
    NewKey,
)
from citybrain.storage.database import Database
from citybrain.storage.moments import now
from citybrain.storage.records.audit import note
from citybrain.storage.records.past import note_grant
from citybrain.storage.tables import DepartmentRow, GrantRow, KeyRow


class People:
    """Who may do what."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def departments(self) -> list[Department]:
        """All departments by name."""
        with self._database.read() as session:
            rows = session.scalars(select(DepartmentRow).order_by(DepartmentRow.name))
            return [Department.model_validate(row, from_attributes=True) for row in rows]

    def add_department(self, new: NewDepartment, actor: Actor) -> Department:
        """Add one; NameTaken when it is there."""
        with self._database.write() as session:
            if session.get(DepartmentRow, new.name) is not None:
                raise NameTaken(f"The department {new.name} exists.")
            row = DepartmentRow(
                name=new.name, title_zh=new.title_zh or new.name,
                title_en=new.title_en or new.name, created_at=now(),
            )  # fmt: skip
            session.add(row)
            note(session, actor, "department.add", new.name)
            return Department.model_validate(row, from_attributes=True)

    def keys(self, department: str = "") -> list[Key]:
        """Keys, of one department or of all; never their secrets."""
        query = select(KeyRow).order_by(KeyRow.created_at)
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
                expires_at=new.expires_at, revoked_at=None,
            )  # fmt: skip
            session.add(row)
            note(
                session,
                actor,
                "key.issue",
                key_id,
                department=new.department,
                role=new.role,
            )
            return Key.model_validate(row, from_attributes=True)

    def revoke_key(self, key_id: str, actor: Actor) -> Key:
        """End a key; gateways refuse it within a second."""
        with self._database.write() as session:
            row = session.get(KeyRow, key_id)
            if row is None:
                raise RowNotFound(f"There is no key {key_id[:40]}.")
            if key_id == actor.key:
                raise Conflict("A key cannot revoke itself.", hint="Use another admin key.")
            row.revoked_at = row.revoked_at or now()
            note(session, actor, "key.revoke", key_id)
            return Key.model_validate(row, from_attributes=True)

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
                revoked_at=None,
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
            note(session, actor, "grant.end", grant_id, algorithm=row.algorithm)
            return Grant.model_validate(row, from_attributes=True)

    def living_keys(self, at: datetime) -> list[tuple[str, Key]]:
        """Hash and key of each key that is neither revoked nor expired."""
        with self._database.read() as session:
            rows = session.scalars(select(KeyRow).where(KeyRow.revoked_at.is_(None)))
            return [
                (row.digest, Key.model_validate(row, from_attributes=True))
                for row in rows
                if row.expires_at is None or row.expires_at > at
            ]
