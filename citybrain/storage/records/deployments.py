"""Deployments: what should run, and what the reconciler last saw."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from citybrain.core.errors import RowNotFound
from citybrain.core.schemas import Actor, Deployment, Scaling, VersionFailure
from citybrain.storage.database import Database, lock
from citybrain.storage.moments import now
from citybrain.storage.records.audit import note, note_refusal
from citybrain.storage.records.closed import refuse_withdrawn
from citybrain.storage.records.past import note_served, note_wanted
from citybrain.storage.tables import DeploymentRow, VersionFailureRow

RECONCILER = Actor(key="reconciler", department="platform", role="admin")


class Deployments:
    """Wanted state; the reconciler alone writes the seen state."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def revision(self) -> int:
        """A number that grows with every change of what is wanted, and of every alias."""
        return self._database.revision()

    def all(self) -> list[Deployment]:
        """Every deployment, also those being removed."""
        query = select(DeploymentRow).order_by(DeploymentRow.algorithm, DeploymentRow.target)
        with self._database.read() as session:
            return [_deployment(row) for row in session.scalars(query)]

    def get(self, algorithm: str, target: str) -> Deployment:
        """One deployment, or RowNotFound."""
        with self._database.read() as session:
            row = session.get(DeploymentRow, (algorithm, target))
            if row is None:
                raise RowNotFound(f"{algorithm}@{target} is not deployed.")
            return _deployment(row)

    def want(
        self, algorithm: str, target: str, replicas: int, actor: Actor,
        scaling: Scaling | None = None, *, shared: bool = False, cpus: int = 1, gpus: float = 0.0,
    ) -> Deployment:  # fmt: skip
        """Ask for a deployment, new or changed; with `scaling`, `replicas` is how many at most."""
        with self._database.write() as session:
            lock(session, algorithm)
            if target.isdigit():  # an alias never points to a withdrawn version
                refuse_withdrawn(session, algorithm, int(target))
            row = session.get(DeploymentRow, (algorithm, target))
            if row is None:
                row = DeploymentRow(algorithm=algorithm, target=target, running={}, version=0)
                session.add(row)
            row.replicas, row.wanted_by, row.wanted_at = replicas, actor.key, now()
            row.scaling = scaling.model_dump() if scaling else {}
            row.shared, row.cpus, row.gpus = shared, cpus, gpus
            row.state, row.message = "waiting", ""
            note_wanted(session, row, "wanted", actor.key, row.wanted_at)
            note(
                session,
                actor,
                "deployment.want",
                f"{algorithm}@{target}",
                replicas=replicas,
                **({"scaling": row.scaling} if scaling else {}),
                **({"shared": True} if shared else {}),
                **({"cpus": cpus} if cpus > 1 else {}),
                **({"gpus": gpus} if gpus else {}),
            )
            session.flush()
            return _deployment(row)

    def refuse(self, algorithm: str, version: int, reason: str, actor: Actor) -> None:
        """Write down that somebody asked for a version that nobody vouches for."""
        with self._database.write() as session:
            note_refusal(session, actor, f"{algorithm}@{version}", reason)

    def unwant(self, algorithm: str, target: str, actor: Actor) -> None:
        """Ask for its end; the reconciler takes it down and removes the row."""
        with self._database.write() as session:
            row = session.get(DeploymentRow, (algorithm, target))
            if row is None:
                raise RowNotFound(f"{algorithm}@{target} is not deployed.")
            if row.state != "removing":
                note_wanted(session, row, "unwanted", actor.key, now())
            row.state = "removing"
            note(session, actor, "deployment.remove", f"{algorithm}@{target}")

    def saw(
        self, algorithm: str, target: str, *, state: str, message: str = "", version: int = 0,
        running: dict[str, Any] | None = None, refused: bool = False,
        wanted_at: datetime | None = None,
    ) -> None:  # fmt: skip
        """What the reconciler saw; nothing is written when nothing changed.

        `wanted_at`: when that was wanted which was looked at; of what is wanted otherwise since, it says nothing.
        `refused`: its files are not those that somebody vouched for, which the audit must know.
        """
        with self._database.write() as session:
            row = session.get(DeploymentRow, (algorithm, target))
            if row is None or row.state == "removing" or wanted_at not in (None, row.wanted_at):
                return
            seen = (state, message[:4000], version or row.version)
            if running is not None and running != row.running:
                row.running = running
                note_served(session, row, running, now())
            if seen != (row.state, row.message, row.version):
                row.state, row.message, row.version = seen
                _remember(session, row)
                if refused:
                    object_ = f"{algorithm}@{row.version or target}"
                    note_refusal(session, RECONCILER, object_, message[:300])

    def failures(self, algorithm: str) -> list[VersionFailure]:
        """Versions that did not start when they were last asked to, and why; also undeployed ones."""
        query = select(VersionFailureRow).where(VersionFailureRow.algorithm == algorithm)
        with self._database.read() as session:
            rows = session.scalars(query.order_by(VersionFailureRow.version))
            return [VersionFailure.model_validate(row, from_attributes=True) for row in rows]

    def forget(self, algorithm: str, target: str) -> None:
        """Remove the row of a deployment that was taken down."""
        with self._database.write() as session:
            row = session.get(DeploymentRow, (algorithm, target), with_for_update=True)
            if row is None or row.state != "removing":
                return
            if row.running:
                note_served(session, row, {}, now())
            session.delete(row)


def _remember(session: Session, row: DeploymentRow) -> None:
    """A failure outlives its deployment, until the version runs."""
    if not row.version or row.state not in ("failed", "running"):
        return
    known = session.get(VersionFailureRow, (row.algorithm, row.version))
    if row.state == "running":
        if known is not None:
            session.delete(known)
        return
    if known is None:
        known = VersionFailureRow(algorithm=row.algorithm, version=row.version)
        session.add(known)
    known.target, known.message, known.at = row.target, row.message, now()


def _deployment(row: DeploymentRow) -> Deployment:
    return Deployment(
        algorithm=row.algorithm, target=row.target, replicas=row.replicas,
        scaling=Scaling.model_validate(row.scaling) if row.scaling else None, shared=row.shared,
        cpus=row.cpus, gpus=row.gpus,
        state=row.state, message=row.message, version=row.version, running=row.running,
        wanted_by=row.wanted_by, wanted_at=row.wanted_at,
    )  # fmt: skip
