"""Departments, the people in them, and their keys."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger
from sqlalchemy.orm import Mapped, mapped_column

from citybrain.storage.tables import Table


class DepartmentRow(Table):
    """A tenant."""

    __tablename__ = "departments"
    name: Mapped[str] = mapped_column(primary_key=True)
    title_zh: Mapped[str]
    title_en: Mapped[str]
    parent: Mapped[str] = mapped_column(server_default="")
    """The department above; empty: the city itself."""
    tier: Mapped[str] = mapped_column(server_default="city")
    """`city`, `district` or `township`."""
    created_at: Mapped[datetime]


class UserRow(Table):
    """A person who signs in to the console."""

    __tablename__ = "users"
    name: Mapped[str] = mapped_column(primary_key=True)
    title: Mapped[str]
    department: Mapped[str] = mapped_column(index=True)
    role: Mapped[str]
    level: Mapped[str]
    """The highest level of data that they may see."""
    password: Mapped[str]
    """argon2id."""
    one_time_until: Mapped[datetime | None]
    """How long it opens the choice of another; NULL: it was chosen."""
    totp: Mapped[str]
    """The second factor's secret, encrypted; empty: none."""
    totp_step: Mapped[int] = mapped_column(BigInteger)
    """The last time step whose code was used: no code counts twice."""
    failed: Mapped[int]
    """Wrong tries in a row."""
    locked_until: Mapped[datetime | None]
    created_at: Mapped[datetime]
    disabled_at: Mapped[datetime | None]


class KeyRow(Table):
    """A service key, or a person's session; only its keyed hash is kept."""

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
    user: Mapped[str] = mapped_column(server_default="")
    """Whose session this is; empty: a service key."""
    scopes: Mapped[list[str]] = mapped_column(server_default="[]")
    """Actions that it may do, as patterns; none: all that its role may do."""
    networks: Mapped[list[str]] = mapped_column(server_default="[]")
    """Networks that it may come from; none: all."""
    level: Mapped[str] = mapped_column(server_default="internal")
    """The highest level of data that it may see."""
    successor: Mapped[str] = mapped_column(server_default="")
    """The key that replaces it after a rotation."""
