"""Batch jobs: the queue, and what became of each."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update

from citybrain.core.errors import Conflict, Overloaded, RowNotFound
from citybrain.core.names import Ref
from citybrain.core.schemas import Actor, BatchJob
from citybrain.core.schemas.jobs import OPEN_JOB, ResultFormat
from citybrain.storage.database import Database, lock
from citybrain.storage.moments import now
from citybrain.storage.records.audit import note
from citybrain.storage.tables import JobRow


class Jobs:
    """The rows of all jobs. An ended job stays as it is, whoever comes late."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def submit(
        self, job_id: str, ref: Ref, task: str, purpose: str, form: ResultFormat, rows: int,
        chunk: int, actor: Actor, *, most: int,
    ) -> BatchJob:  # fmt: skip
        """Queue one whose files are there; Overloaded while the department has enough open."""
        with self._database.write() as session:
            lock(session, f"jobs of {actor.department}")
            mine = select(func.count()).select_from(JobRow).where(
                JobRow.department == actor.department, JobRow.state.in_(OPEN_JOB)
            )  # fmt: skip
            if (session.scalar(mine) or 0) >= most:
                raise Overloaded(
                    f"{actor.department} has {most} open jobs.",
                    hint="Wait for one, or cancel one: citybrain jobs list",
                )
            row = JobRow(
                id=job_id, algorithm=ref.algorithm, target=ref.target, task=task, purpose=purpose,
                department=actor.department, asked_by=actor.key, format=form, state="waiting",
                rows=rows, chunk=chunk, done=0, failed=0, problems=[], error={}, created_at=now(),
                started_at=None, finished_at=None, expires_at=None,
            )  # fmt: skip
            session.add(row)
            note(session, actor, "job.submit", str(ref), job=job_id, rows=rows, purpose=purpose)
            return _job(row)

    def get(self, job_id: str) -> BatchJob:
        """One job, or RowNotFound."""
        with self._database.read() as session:
            row = session.get(JobRow, job_id)
            if row is None:
                raise _missing(job_id)
            return _job(row)

    def find(self, department: str = "", limit: int = 100) -> list[BatchJob]:
        """Jobs, newest first."""
        query = select(JobRow).order_by(JobRow.created_at.desc(), JobRow.id).limit(limit)
        if department:
            query = query.where(JobRow.department == department)
        with self._database.read() as session:
            return [_job(row) for row in session.scalars(query)]

    def algorithms(self) -> list[str]:
        """Algorithms that open jobs wait for."""
        query = select(JobRow.algorithm).where(JobRow.state.in_(OPEN_JOB)).distinct()
        with self._database.read() as session:
            return list(session.scalars(query))

    def next(self, algorithm: str, after: str) -> BatchJob | None:
        """Whose turn it is: the oldest open job of the department that follows `after`."""
        query = select(JobRow).where(JobRow.algorithm == algorithm, JobRow.state.in_(OPEN_JOB))
        query = query.order_by(JobRow.department, JobRow.created_at, JobRow.id)
        with self._database.read() as session:
            following = session.scalars(query.where(JobRow.department > after).limit(1)).first()
            row = following or session.scalars(query.limit(1)).first()
            return None if row is None else _job(row)

    def started(self, job_id: str) -> None:
        """It has its first turn."""
        self._change(job_id, state="running", started_at=now())

    def waits(self, job_id: str, error: dict[str, Any]) -> None:
        """It cannot go on for now, and why; nothing: it can."""
        self._change(job_id, error=error)

    def progress(self, job_id: str, done: int, failed: int, problems: list[dict[str, Any]]) -> None:
        """Another chunk is finished, written and metered."""
        self._change(job_id, done=done, failed=failed, problems=problems, error={})

    def ended(
        self, job_id: str, state: str, expires_at: datetime, error: dict[str, Any] | None = None
    ) -> None:
        """It is done, or came to nothing and why."""
        self._change(
            job_id, state=state, error=error or {}, finished_at=now(), expires_at=expires_at
        )

    def cancel(self, job_id: str, actor: Actor, expires_at: datetime) -> BatchJob:
        """End an open job; Conflict when it has ended already."""
        with self._database.write() as session:
            row = session.get(JobRow, job_id, with_for_update=True)
            if row is None:
                raise _missing(job_id)
            if row.state not in OPEN_JOB:
                raise Conflict(f"The job {job_id} has ended: {row.state}.")
            row.state, row.finished_at, row.expires_at = "cancelled", now(), expires_at
            note(session, actor, "job.cancel", row.algorithm, job=job_id, done=row.done)
            return _job(row)

    def _change(self, job_id: str, **values: Any) -> None:
        query = update(JobRow).where(JobRow.id == job_id, JobRow.state.in_(OPEN_JOB))
        with self._database.write() as session:
            session.execute(query.values(**values))


def _job(row: JobRow) -> BatchJob:
    found = BatchJob.model_validate(row, from_attributes=True)
    if found.state != "running" or not found.done or found.started_at is None:
        return found
    spent = (now() - found.started_at).total_seconds()
    left = spent / found.done * (found.rows - found.done)
    return found.model_copy(update={"eta_seconds": round(left, 1)})


def _missing(job_id: str) -> RowNotFound:
    return RowNotFound(f"There is no job {job_id[:40]}.", hint="List them: citybrain jobs list")
