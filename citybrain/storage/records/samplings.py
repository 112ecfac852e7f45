"""How many calls of each algorithm the prediction log keeps, and how long."""

from __future__ import annotations

from sqlalchemy import select

from citybrain.core.schemas import Actor
from citybrain.core.schemas.predictions import NewSampling
from citybrain.storage.database import Database, bump, lock
from citybrain.storage.log_tables import SamplingRow
from citybrain.storage.moments import now
from citybrain.storage.records.audit import note


class Samplings:
    """One row for each algorithm that differs from the platform's settings."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> dict[str, NewSampling]:
        """What was said for each algorithm."""
        with self._database.read() as session:
            return {row.algorithm: _said(row) for row in session.scalars(select(SamplingRow))}

    def get(self, algorithm: str) -> NewSampling:
        """What was said for this one; nothing where nobody said anything."""
        with self._database.read() as session:
            row = session.get(SamplingRow, algorithm)
            return _said(row) if row else NewSampling()

    def put(self, algorithm: str, new: NewSampling, actor: Actor) -> None:
        """Say it anew; gateways follow within their refresh."""
        with self._database.write() as session:
            lock(session, algorithm)
            row = session.get(SamplingRow, algorithm)
            if row is None:
                row = SamplingRow(algorithm=algorithm)
                session.add(row)
            row.rate, row.keep_days = new.rate, new.keep_days
            row.set_by, row.set_at = actor.key, now()
            note(session, actor, "predictions.set", algorithm, **new.model_dump())
            bump(session)


def _said(row: SamplingRow) -> NewSampling:
    return NewSampling(rate=row.rate, keep_days=row.keep_days)
