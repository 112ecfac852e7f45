"""Who may use what, for which purpose, and what is stopped or forbidden."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from citybrain.storage.tables import Table


class GrantRow(Table):
    """A department may use an algorithm or a feature view for a purpose until a date."""

    __tablename__ = "grants"
    id: Mapped[str] = mapped_column(primary_key=True)
    department: Mapped[str] = mapped_column(index=True)
    algorithm: Mapped[str] = mapped_column(index=True)
    """What is granted; for `kind` `view`, a feature view."""
    kind: Mapped[str] = mapped_column(server_default="algorithm")
    purpose: Mapped[str]
    scenario: Mapped[str] = mapped_column(server_default="")
    basis: Mapped[str] = mapped_column(String(500), server_default="")
    """The legal basis."""
    columns: Mapped[list[str]] = mapped_column(server_default="[]")
    """Of a view; none: all."""
    granted_by: Mapped[str]
    created_at: Mapped[datetime]
    until: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class GrantRequestRow(Table):
    """A grant that a department asks for."""

    __tablename__ = "grant_requests"
    id: Mapped[str] = mapped_column(primary_key=True)
    department: Mapped[str] = mapped_column(index=True)
    kind: Mapped[str]
    algorithm: Mapped[str] = mapped_column(index=True)
    purpose: Mapped[str]
    scenario: Mapped[str]
    basis: Mapped[str] = mapped_column(String(500))
    columns: Mapped[list[str]]
    reason: Mapped[str] = mapped_column(String(1000))
    until: Mapped[datetime | None]
    state: Mapped[str]
    """`waiting`, `approved`, `refused` or `withdrawn`."""
    asked_by: Mapped[str]
    decided_by: Mapped[str]
    answer: Mapped[str] = mapped_column(String(1000))
    grant_id: Mapped[str]
    created_at: Mapped[datetime]
    decided_at: Mapped[datetime | None]


class SuspensionRow(Table):
    """A stop at once: of a grant, an algorithm or a department, until it is lifted."""

    __tablename__ = "suspensions"
    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    target: Mapped[str] = mapped_column(index=True)
    reason: Mapped[str] = mapped_column(String(1000))
    suspended_by: Mapped[str]
    at: Mapped[datetime]
    lifted_by: Mapped[str]
    lifted_at: Mapped[datetime | None]


class PinRow(Table):
    """A department stays with one version of an algorithm, whatever its champion is."""

    __tablename__ = "pins"
    department: Mapped[str] = mapped_column(primary_key=True)
    algorithm: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int]
    set_by: Mapped[str]
    set_at: Mapped[datetime]


class DeidentificationRow(Table):
    """An approved step that lowers the level of an algorithm's or a view's answers."""

    __tablename__ = "deidentifications"
    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    target: Mapped[str] = mapped_column(index=True)
    level: Mapped[str]
    """Of what comes out."""
    method: Mapped[str] = mapped_column(String(1000))
    state: Mapped[str]
    asked_by: Mapped[str]
    decided_by: Mapped[str]
    created_at: Mapped[datetime]
    decided_at: Mapped[datetime | None]


class ForbiddenRow(Table):
    """The negative list: a category of data that is never collected, or never joined with another."""

    __tablename__ = "forbidden"
    id: Mapped[str] = mapped_column(primary_key=True)
    category: Mapped[str] = mapped_column(index=True)
    joined: Mapped[str]
    """The other category; empty: it is not collected at all."""
    reason: Mapped[str] = mapped_column(String(1000))
    set_by: Mapped[str]
    set_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
