"""Append-only tables: what was decided and what served, by whom and when.

A trigger on each of them (and on `alias_moves`) refuses UPDATE and DELETE, on SQLite and on
PostgreSQL; the migration that made them says how.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from citybrain.storage.tables import Table


class DeploymentMoveRow(Table):
    """What was wanted (`wanted`, `unwanted`) and what answered (`running`, `stopped`)."""

    __tablename__ = "deployment_moves"
    __table_args__ = (Index("ix_deployment_moves_algorithm_target", "algorithm", "target"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    algorithm: Mapped[str]
    target: Mapped[str]
    kind: Mapped[str]
    version: Mapped[int]
    replicas: Mapped[int]
    min_replicas: Mapped[int | None]
    app: Mapped[str]
    moved_by: Mapped[str]
    at: Mapped[datetime]


class GrantMoveRow(Table):
    """A grant that was given (with its end, if it has one) or revoked."""

    __tablename__ = "grant_moves"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    grant_id: Mapped[str] = mapped_column(index=True)
    kind: Mapped[str]
    department: Mapped[str]
    algorithm: Mapped[str]
    purpose: Mapped[str]
    until: Mapped[datetime | None]
    moved_by: Mapped[str]
    at: Mapped[datetime]


class PromotionMoveRow(Table):
    """A promotion that was asked for (`waiting`), `done` or `withdrawn`."""

    __tablename__ = "promotion_moves"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    promotion_id: Mapped[str] = mapped_column(index=True)
    kind: Mapped[str]
    algorithm: Mapped[str]
    alias: Mapped[str]
    version: Mapped[int]
    moved_by: Mapped[str]
    at: Mapped[datetime]


class RetirementRow(Table):
    """An algorithm (version 0) or a version was retired, or the retirement was undone."""

    __tablename__ = "retirements"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    algorithm: Mapped[str] = mapped_column(index=True)
    version: Mapped[int]
    kind: Mapped[str]
    sunset: Mapped[datetime | None]
    replacement: Mapped[str]
    moved_by: Mapped[str]
    at: Mapped[datetime]


class VersionEndRow(Table):
    """A version was withdrawn as a mistake, or deleted after that."""

    __tablename__ = "version_ends"
    __table_args__ = (UniqueConstraint("algorithm", "version", "kind"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    algorithm: Mapped[str]
    version: Mapped[int]
    kind: Mapped[str]
    digest: Mapped[str]
    reason: Mapped[str] = mapped_column(String(1000))
    moved_by: Mapped[str]
    at: Mapped[datetime]
