"""Batch jobs: many rows handed in as files, answered when nobody else waits."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from citybrain.core.schemas.people import Known

ResultFormat = Literal["jsonl", "parquet"]
JobState = Literal["waiting", "running", "done", "failed", "cancelled"]
OPEN_JOB = ("waiting", "running")


class BatchJob(Known):
    """One job: what was asked, how far it is, and why it ended if it did not succeed."""

    id: str
    algorithm: str
    target: str
    """An alias or a version; empty: whatever answers callers who name none."""
    task: str
    purpose: str
    department: str
    asked_by: str
    format: ResultFormat
    state: JobState
    rows: int
    chunk: int
    """Rows that are finished, written and metered together."""
    done: int
    """Rows of finished chunks, those with an error of their own included."""
    failed: int
    problems: list[dict[str, Any]]
    """The first rows that failed: `row`, `code`, `message`."""
    error: dict[str, Any]
    """Why the job failed; while it is open: what it waits for."""
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    """When the result is removed."""
    eta_seconds: float | None = None
    """About how long it will take still, by its speed until now."""
