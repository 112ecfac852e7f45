"""Tables about logs: what is written down of calls besides the ledger."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger
from sqlalchemy.orm import Mapped, mapped_column

from citybrain.storage.tables import Table


class SamplingRow(Table):
    """What an algorithm's prediction log keeps; NULL: the platform's setting."""

    __tablename__ = "sampling"
    algorithm: Mapped[str] = mapped_column(primary_key=True)
    rate: Mapped[float | None]
    keep_days: Mapped[int | None]
    set_by: Mapped[str]
    set_at: Mapped[datetime]


class DrawRow(Table):
    """What became of the calls that a split drew to a version in one second (`second`: Unix seconds)."""

    __tablename__ = "draws"
    algorithm: Mapped[str] = mapped_column(primary_key=True)
    second: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    version: Mapped[int] = mapped_column(primary_key=True)
    calls: Mapped[int]
    failed: Mapped[int]
    took: Mapped[list[int]]
