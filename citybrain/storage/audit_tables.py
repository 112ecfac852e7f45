"""The audit trail, and how long logs are kept."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from citybrain.storage.tables import Table


class AuditRow(Table):
    """A control act or a denial, chained to the one before; append-only.

    `record` is what is hashed: RFC 8785 JSON of everything else. The other columns repeat it for queries.
    """

    __tablename__ = "audit"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[datetime] = mapped_column(index=True)
    actor: Mapped[str]
    department: Mapped[str]
    action: Mapped[str]
    object: Mapped[str]
    detail: Mapped[dict[str, Any]]
    record: Mapped[str] = mapped_column(Text, server_default="")
    hash: Mapped[str] = mapped_column(String(64), server_default="")
    """SHA-256 of the hash before and this record, in hex."""


class CheckpointRow(Table):
    """The platform's signed word for how far the chain was; append-only."""

    __tablename__ = "checkpoints"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    day: Mapped[str] = mapped_column(String(10))
    last: Mapped[int]
    """The id of the newest entry."""
    hash: Mapped[str] = mapped_column(String(64))
    count: Mapped[int] = mapped_column(BigInteger)
    signed: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime]


class RetentionRow(Table):
    """How many days a log is kept; none: the platform's setting."""

    __tablename__ = "retentions"
    log: Mapped[str] = mapped_column(primary_key=True)
    days: Mapped[int]
    set_by: Mapped[str]
    set_at: Mapped[datetime]
