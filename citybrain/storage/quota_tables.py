"""Limits, and calls that may be repeated."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Double, LargeBinary
from sqlalchemy.orm import Mapped, mapped_column

from citybrain.storage.tables import Table


class QuotaRow(Table):
    """A limit: so much of a unit, of one algorithm or of all, per second, day or month, or at once."""

    __tablename__ = "quotas"
    id: Mapped[str] = mapped_column(primary_key=True)
    department: Mapped[str] = mapped_column(index=True)
    algorithm: Mapped[str]
    """Empty: all of them together."""
    unit: Mapped[str]
    per: Mapped[str]
    """`second`, `day`, `month` or `once` (calls at the same time)."""
    amount: Mapped[float] = mapped_column(Double)
    burst: Mapped[float] = mapped_column(Double)
    slot: Mapped[int]
    """Where gateways count it."""
    set_by: Mapped[str]
    set_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class AllotmentRow(Table):
    """What a department's deployments may take at most; NULL: no limit."""

    __tablename__ = "allotments"
    department: Mapped[str] = mapped_column(primary_key=True)
    replicas: Mapped[int | None]
    cpus: Mapped[float | None] = mapped_column(Double)
    gpus: Mapped[float | None] = mapped_column(Double)
    memory: Mapped[int | None] = mapped_column(BigInteger)
    set_by: Mapped[str]
    set_at: Mapped[datetime]


class IdempotencyRow(Table):
    """A call with an `Idempotency-Key`, and its answer once it has one."""

    __tablename__ = "idempotency"
    department: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_id: Mapped[str]
    digest: Mapped[str]
    """Of what was asked: the same key with another body is a mistake."""
    state: Mapped[str]
    """`running` or `done`."""
    holder: Mapped[str]
    """The gateway that works on it."""
    body: Mapped[bytes] = mapped_column(LargeBinary)
    header_length: Mapped[int]
    at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
