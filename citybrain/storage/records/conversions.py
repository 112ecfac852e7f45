"""Conversions: jobs while they run, evidence when they are done."""

from __future__ import annotations

import uuid
from typing import Any, cast

from sqlalchemy import select, update

from citybrain.core.errors import Conflict, RowNotFound
from citybrain.core.schemas import Actor, Conversion, Role
from citybrain.storage.database import Database, bump, lock
from citybrain.storage.moments import now
from citybrain.storage.people_tables import KeyRow
from citybrain.storage.records.audit import note
from citybrain.storage.tables import ConversionRow

OPEN = ("waiting", "running")


class Conversions:
    """The queue of conversions, and what became of each."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def start(
        self, algorithm: str, version: int, form: str, scenario: str, actor: Actor
    ) -> Conversion:
        """Queue one; Conflict while the same is under way."""
        with self._database.write() as session:
            lock(session, algorithm)
            same = select(ConversionRow).where(
                ConversionRow.algorithm == algorithm, ConversionRow.version == version,
                ConversionRow.form == form, ConversionRow.state.in_(OPEN),
            )  # fmt: skip
            if found := session.scalars(same).first():
                raise Conflict(
                    f"{algorithm}@{version} is being converted to {form} already.",
                    hint=f"Look at it: conversion {found.id}",
                )
            row = ConversionRow(
                id=uuid.uuid4().hex[:12], algorithm=algorithm, version=version, form=form,
                scenario=scenario, state="waiting", made=0, report={}, error={},
                asked_by=actor.key, department=actor.department, created_at=now(),
                finished_at=None,
            )  # fmt: skip
            session.add(row)
            note(session, actor, "version.convert", f"{algorithm}@{version}", form=form)
            return Conversion.model_validate(row, from_attributes=True)

    def running(self, conversion_id: str) -> None:
        """It is being worked on."""
        self._change(conversion_id, state="running")

    def failed(self, conversion_id: str, code: str, message: str, hint: str = "") -> None:
        """It came to nothing, and why."""
        error = {"code": code, "message": message, "hint": hint}
        self._change(conversion_id, state="failed", error=error, finished_at=now())

    def done(self, conversion_id: str, made: int, report: dict[str, Any]) -> None:
        """The form was admitted; what serves may change with it."""
        with self._database.write() as session:
            row = session.get(ConversionRow, conversion_id)
            if row is None:
                raise RowNotFound(f"There is no conversion {conversion_id[:40]}.")
            row.state, row.made, row.report, row.finished_at = "done", made, report, now()
            actor = Actor(key=row.asked_by, department=row.department, role="developer")
            note(session, actor, "version.converted", f"{row.algorithm}@{row.version}",
                 form=row.form, made=made)  # fmt: skip
            bump(session)

    def asker(self, conversion_id: str) -> Actor:
        """Who asked for it, for whom it is registered."""
        with self._database.read() as session:
            row = session.get(ConversionRow, conversion_id)
            if row is None:
                raise RowNotFound(f"There is no conversion {conversion_id[:40]}.")
            key = session.get(KeyRow, row.asked_by)
            role: Role = cast(Role, key.role) if key else "admin"  # the platform itself has no key
            return Actor(key=row.asked_by, department=row.department, role=role)

    def get(self, conversion_id: str) -> Conversion:
        """One conversion, or RowNotFound."""
        with self._database.read() as session:
            row = session.get(ConversionRow, conversion_id)
            if row is None:
                raise RowNotFound(f"There is no conversion {conversion_id[:40]}.")
            return Conversion.model_validate(row, from_attributes=True)

    def find(self, algorithm: str = "", limit: int = 100) -> list[Conversion]:
        """Conversions, newest first."""
        query = select(ConversionRow).order_by(ConversionRow.created_at.desc()).limit(limit)
        if algorithm:
            query = query.where(ConversionRow.algorithm == algorithm)
        with self._database.read() as session:
            return [
                Conversion.model_validate(row, from_attributes=True)
                for row in session.scalars(query)
            ]

    def recover(self) -> list[str]:
        """After a stop: what was running says so and ends, what waited is returned, oldest first."""
        error = {
            "code": "interrupted",
            "message": "The platform stopped during this conversion.",
            "hint": "Ask for it again.",
        }
        with self._database.write() as session:
            session.execute(
                update(ConversionRow).where(ConversionRow.state == "running")
                .values(state="failed", error=error, finished_at=now())
            )  # fmt: skip
            waiting = select(ConversionRow.id).where(ConversionRow.state == "waiting")
            return list(session.scalars(waiting.order_by(ConversionRow.created_at)))

    def _change(self, conversion_id: str, **values: Any) -> None:
        query = update(ConversionRow).where(ConversionRow.id == conversion_id).values(**values)
        with self._database.write() as session:
            session.execute(query)
