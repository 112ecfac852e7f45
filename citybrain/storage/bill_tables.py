"""Prices, statements, ratings, and what departments are told."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from citybrain.storage.tables import Table


class PriceRow(Table):
    """A line of the price book; append-only. The newest one that has begun counts."""

    __tablename__ = "prices"
    __table_args__ = (UniqueConstraint("algorithm", "unit", "version"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    algorithm: Mapped[str]
    """Empty: every algorithm that has no line of its own."""
    unit: Mapped[str]
    version: Mapped[int]
    micros: Mapped[int] = mapped_column(BigInteger)
    """Millionths of a yuan for one unit."""
    begins: Mapped[datetime]
    note: Mapped[str] = mapped_column(String(500))
    set_by: Mapped[str]
    set_at: Mapped[datetime]


class StatementRow(Table):
    """A month's statement that was issued; append-only."""

    __tablename__ = "statements"
    department: Mapped[str] = mapped_column(primary_key=True)
    month: Mapped[str] = mapped_column(String(7), primary_key=True)
    digest: Mapped[str]
    micros: Mapped[int] = mapped_column(BigInteger)
    content: Mapped[dict[str, Any]]
    issued_by: Mapped[str]
    issued_at: Mapped[datetime]


class RatingRow(Table):
    """What a caller thinks of an answer."""

    __tablename__ = "ratings"
    request_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    department: Mapped[str] = mapped_column(index=True)
    algorithm: Mapped[str] = mapped_column(index=True)
    version: Mapped[int]
    scenario: Mapped[str]
    stars: Mapped[int]
    reason: Mapped[str] = mapped_column(String(1000))
    rated_by: Mapped[str]
    at: Mapped[datetime]


class NoticeRow(Table):
    """Something that a department should know: its champion changes, its grant ends."""

    __tablename__ = "notices"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    department: Mapped[str] = mapped_column(index=True)
    kind: Mapped[str]
    target: Mapped[str]
    detail: Mapped[dict[str, Any]]
    at: Mapped[datetime]
    read_at: Mapped[datetime | None]
