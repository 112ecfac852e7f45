"""Who may do what, what should run, what happened; nothing that MLflow or Feast knows."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Double, Index, MetaData, String, UniqueConstraint, false
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from citybrain.storage.moments import UtcDateTime

NAMING = {
    "ix": "ix_%(column_0_label)s", "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s", "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}  # fmt: skip


class Table(DeclarativeBase):
    """Base of all tables; constraint names are fixed so that migrations find them."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it from the class
        datetime: UtcDateTime,
        dict[str, Any]: JSON,
        list[str]: JSON,
        list[int]: JSON,
        list[Any]: JSON,
        list[dict[str, Any]]: JSON,
        str: String(255),
    }


class AlgorithmRow(Table):
    """What the platform decides about an algorithm; what it is stands in MLflow."""

    __tablename__ = "algorithms"
    name: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str]
    approval: Mapped[str]
    created_at: Mapped[datetime]


class AliasMoveRow(Table):
    """One promotion or rollback; append-only. The latest row of an alias is where it points."""

    __tablename__ = "alias_moves"
    __table_args__ = (UniqueConstraint("algorithm", "alias", "sequence"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    algorithm: Mapped[str]
    alias: Mapped[str]
    sequence: Mapped[int]
    version: Mapped[int]
    previous: Mapped[int]
    reason: Mapped[str]
    moved_by: Mapped[str]
    at: Mapped[datetime]


class PromotionRow(Table):
    """A version that somebody wants behind an alias, with its evidence and who approved."""

    __tablename__ = "promotions"
    id: Mapped[str] = mapped_column(primary_key=True)
    algorithm: Mapped[str] = mapped_column(index=True)
    alias: Mapped[str]
    version: Mapped[int]
    evaluation: Mapped[str]
    source: Mapped[str] = mapped_column(server_default="")
    state: Mapped[str]
    asked_by: Mapped[str]
    decided_by: Mapped[str]
    at: Mapped[datetime]
    decided_at: Mapped[datetime | None]


class DeploymentRow(Table):
    """What should run (`scaling`: a range, or empty) and what the reconciler last saw."""

    __tablename__ = "deployments"
    algorithm: Mapped[str] = mapped_column(primary_key=True)
    target: Mapped[str] = mapped_column(primary_key=True)
    replicas: Mapped[int]
    scaling: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    shared: Mapped[bool] = mapped_column(server_default=false())
    cpus: Mapped[int] = mapped_column(server_default="1")
    gpus: Mapped[float] = mapped_column(server_default="0")
    wanted_by: Mapped[str]
    wanted_at: Mapped[datetime]
    state: Mapped[str]
    message: Mapped[str] = mapped_column(String(4000))
    version: Mapped[int]
    running: Mapped[dict[str, Any]]


class VersionFailureRow(Table):
    """Why a version did not start when it was last asked to; gone when it starts."""

    __tablename__ = "version_failures"
    algorithm: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    target: Mapped[str]
    message: Mapped[str] = mapped_column(String(4000))
    at: Mapped[datetime]


class EvaluationRow(Table):
    """One run of a scenario over one version."""

    __tablename__ = "evaluations"
    id: Mapped[str] = mapped_column(primary_key=True)
    scenario: Mapped[str] = mapped_column(index=True)
    algorithm: Mapped[str] = mapped_column(index=True)
    version: Mapped[int]
    data: Mapped[str] = mapped_column(String(1000))
    state: Mapped[str]
    progress: Mapped[float]
    passed: Mapped[bool | None]
    report: Mapped[dict[str, Any]]
    error: Mapped[dict[str, Any]]
    asked_by: Mapped[str]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class ConversionRow(Table):
    """One job that makes another form of a version."""

    __tablename__ = "conversions"
    id: Mapped[str] = mapped_column(primary_key=True)
    algorithm: Mapped[str] = mapped_column(index=True)
    version: Mapped[int]
    form: Mapped[str]
    scenario: Mapped[str]
    state: Mapped[str]
    made: Mapped[int]
    report: Mapped[dict[str, Any]]
    error: Mapped[dict[str, Any]]
    asked_by: Mapped[str]
    department: Mapped[str]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class JobRow(Table):
    """One batch job: what was asked, and how far it is. Its rows lie in files."""

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(primary_key=True)
    algorithm: Mapped[str] = mapped_column(index=True)
    target: Mapped[str]
    task: Mapped[str]
    purpose: Mapped[str]
    department: Mapped[str] = mapped_column(index=True)
    asked_by: Mapped[str]
    format: Mapped[str]
    state: Mapped[str] = mapped_column(index=True)
    rows: Mapped[int]
    chunk: Mapped[int]
    done: Mapped[int]
    failed: Mapped[int]
    problems: Mapped[list[dict[str, Any]]]
    error: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]


class RequestRow(Table):
    """The ledger: one row for each call that was answered, failed or lost with its gateway."""

    __tablename__ = "requests"
    __table_args__ = (Index("ix_requests_department_at", "department", "at"),)
    request_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)
    key: Mapped[str]
    department: Mapped[str]
    algorithm: Mapped[str]
    version: Mapped[int]
    purpose: Mapped[str]
    door: Mapped[str]
    state: Mapped[str]
    status: Mapped[int]
    rows: Mapped[int]
    micros: Mapped[int] = mapped_column(BigInteger)
    unit: Mapped[str] = mapped_column(String(16), server_default="")
    """The modality's own unit (`images`, `audio-seconds`), and how much of it."""
    amount: Mapped[float] = mapped_column(Double, server_default="0")
    work_micros: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """The call's part of the replica's work."""
    scenario: Mapped[str] = mapped_column(server_default="")
    """Of the grant that it came under."""


class UsageDayRow(Table):
    """Usage per department, algorithm, version and day of the city's time zone."""

    __tablename__ = "usage_days"
    day: Mapped[str] = mapped_column(String(10), primary_key=True)
    department: Mapped[str] = mapped_column(primary_key=True)
    algorithm: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    requests: Mapped[int] = mapped_column(BigInteger)
    failed: Mapped[int] = mapped_column(BigInteger)
    rows: Mapped[int] = mapped_column(BigInteger)
    micros: Mapped[int] = mapped_column(BigInteger)
    unit: Mapped[str] = mapped_column(String(16), server_default="")
    """What `amount` and `work_micros` are of: calls that were answered."""
    amount: Mapped[float] = mapped_column(Double, server_default="0")
    work_micros: Mapped[int] = mapped_column(BigInteger, server_default="0")


class UsageMinuteRow(Table):
    """Requests and a latency histogram per algorithm and minute, for the dashboard."""

    __tablename__ = "usage_minutes"
    minute: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    algorithm: Mapped[str] = mapped_column(primary_key=True)
    requests: Mapped[int]
    failed: Mapped[int]
    latency: Mapped[list[int]]


class JournalRow(Table):
    """How far the loader has read a journal file."""

    __tablename__ = "journals"
    file: Mapped[str] = mapped_column(primary_key=True)
    offset: Mapped[int] = mapped_column(BigInteger)


class RevisionRow(Table):
    """A counter that grows when a gateway must look at its tables again."""

    __tablename__ = "revisions"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(BigInteger)
