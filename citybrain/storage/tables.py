"""The platform database: who may do what, what should run, what happened.

No version of MLflow's and no feature of Feast's is repeated here.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Index, MetaData, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from citybrain.storage.moments import UtcDateTime

NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


class Table(DeclarativeBase):
    """Base of all tables; constraint names are fixed so that migrations find them."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it from the class
        datetime: UtcDateTime,
        dict[str, Any]: JSON,
        list[str]: JSON,
        list[int]: JSON,
        str: String(255),
    }


class DepartmentRow(Table):
    """A tenant."""

    __tablename__ = "departments"
    name: Mapped[str] = mapped_column(primary_key=True)
    title_zh: Mapped[str]
    title_en: Mapped[str]
    created_at: Mapped[datetime]


class KeyRow(Table):
    """A service key; only its keyed hash is kept."""

    __tablename__ = "keys"
    id: Mapped[str] = mapped_column(primary_key=True)
    department: Mapped[str] = mapped_column(index=True)
    role: Mapped[str]
    digest: Mapped[str] = mapped_column(unique=True)
    purposes: Mapped[list[str]]
    note: Mapped[str]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class GrantRow(Table):
    """A department may call an algorithm for a purpose until a date."""

    __tablename__ = "grants"
    id: Mapped[str] = mapped_column(primary_key=True)
    department: Mapped[str] = mapped_column(index=True)
    algorithm: Mapped[str] = mapped_column(index=True)
    purpose: Mapped[str]
    granted_by: Mapped[str]
    created_at: Mapped[datetime]
    until: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


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
    """What should run (the wanted columns) and what the reconciler last saw."""

    __tablename__ = "deployments"
    algorithm: Mapped[str] = mapped_column(primary_key=True)
    target: Mapped[str] = mapped_column(primary_key=True)
    replicas: Mapped[int]
    wanted_by: Mapped[str]
    wanted_at: Mapped[datetime]
    state: Mapped[str]
    message: Mapped[str] = mapped_column(String(4000))
    version: Mapped[int]
    running: Mapped[dict[str, Any]]


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


class AuditRow(Table):
    """Every control act and who did it; written in the same transaction as the act."""

    __tablename__ = "audit"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[datetime] = mapped_column(index=True)
    actor: Mapped[str]
    department: Mapped[str]
    action: Mapped[str]
    object: Mapped[str]
    detail: Mapped[dict[str, Any]]


class RevisionRow(Table):
    """A counter that grows when a gateway must look at its tables again."""

    __tablename__ = "revisions"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(BigInteger)
