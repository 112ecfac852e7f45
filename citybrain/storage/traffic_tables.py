"""How calls are shared among deployments: the plan in force, canaries, and what was before.

`traffic_moves` only grows: a trigger refuses UPDATE and DELETE.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Mapped, mapped_column

from citybrain.storage.tables import Table


class TrafficRow(Table):
    """How calls of an algorithm are shared among its deployments."""

    __tablename__ = "traffic"
    algorithm: Mapped[str] = mapped_column(primary_key=True)
    plan: Mapped[dict[str, Any]]
    canary: Mapped[str]
    set_by: Mapped[str]
    set_at: Mapped[datetime]


class CanaryRow(Table):
    """A release that is tried on a growing part of the calls, with its log."""

    __tablename__ = "canaries"
    id: Mapped[str] = mapped_column(primary_key=True)
    algorithm: Mapped[str] = mapped_column(index=True)
    target: Mapped[str]
    version: Mapped[int]
    base: Mapped[str]
    base_version: Mapped[int]
    plan: Mapped[dict[str, Any]]
    state: Mapped[str]
    step: Mapped[int]
    log: Mapped[list[Any]]
    asked_by: Mapped[str]
    created_at: Mapped[datetime]
    moved_at: Mapped[datetime]


class TrafficMoveRow(Table):
    """A plan that came into force, by hand or by its canary; append-only."""

    __tablename__ = "traffic_moves"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    algorithm: Mapped[str] = mapped_column(index=True)
    plan: Mapped[dict[str, Any]]
    canary: Mapped[str]
    moved_by: Mapped[str]
    at: Mapped[datetime]
