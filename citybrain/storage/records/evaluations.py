"""Evaluations: jobs while they run, evidence when they are done."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import select, update

from citybrain.core.errors import RowNotFound
from citybrain.core.schemas import Actor, Evaluation
from citybrain.storage.database import Database
from citybrain.storage.moments import now
from citybrain.storage.records.audit import note
from citybrain.storage.tables import EvaluationRow


class Evaluations:
    """The league tables' rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def start(
        self, scenario: str, algorithm: str, version: int, data: str, actor: Actor
    ) -> Evaluation:
        """Write a new evaluation down."""
        with self._database.write() as session:
            row = EvaluationRow(
                id=uuid.uuid4().hex[:12], scenario=scenario, algorithm=algorithm, version=version,
                data=data, state="waiting", progress=0.0, passed=None, report={}, error={},
                asked_by=actor.key, created_at=now(), finished_at=None,
            )  # fmt: skip
            session.add(row)
            note(
                session,
                actor,
                "evaluation.start",
                f"{algorithm}@{version}",
                scenario=scenario,
            )
            return Evaluation.model_validate(row, from_attributes=True)

    def change(self, evaluation_id: str, **values: Any) -> None:
        """Progress, or the end."""
        if values.get("state") in ("done", "failed"):
            values["finished_at"] = now()
        query = update(EvaluationRow).where(EvaluationRow.id == evaluation_id).values(**values)
        with self._database.write() as session:
            session.execute(query)

    def get(self, evaluation_id: str) -> Evaluation:
        """One evaluation, or RowNotFound."""
        with self._database.read() as session:
            row = session.get(EvaluationRow, evaluation_id)
            if row is None:
                raise RowNotFound(f"There is no evaluation {evaluation_id[:40]}.")
            return Evaluation.model_validate(row, from_attributes=True)

    def find(
        self, *, algorithm: str = "", version: int = 0, scenario: str = "", state: str = "",
        limit: int = 200,
    ) -> list[Evaluation]:  # fmt: skip
        """Evaluations, newest first."""
        query = select(EvaluationRow).order_by(EvaluationRow.created_at.desc()).limit(limit)
        filters = {
            "algorithm": algorithm,
            "version": version,
            "scenario": scenario,
            "state": state,
        }
        for name, value in filters.items():
            if value:
                query = query.where(getattr(EvaluationRow, name) == value)
        with self._database.read() as session:
            return [
                Evaluation.model_validate(row, from_attributes=True)
                for row in session.scalars(query)
            ]

    def fail_interrupted(self) -> int:
        """After a crash: what was running did not finish, and says so."""
        error = {
            "code": "interrupted",
            "message": "The platform stopped during this evaluation.",
        }
        query = (
            update(EvaluationRow)
            .where(EvaluationRow.state.in_(("waiting", "running")))
            .values(state="failed", error=error, finished_at=now())
        )
        with self._database.write() as session:
            return int(session.execute(query).rowcount)  # type: ignore[attr-defined]
