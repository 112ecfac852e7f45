"""People who sign in to the console."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from citybrain.core.levels import Level
from citybrain.core.names import Name
from citybrain.core.schemas.people import Known, Role, Said

SECOND_FACTOR: tuple[Role, ...] = ("admin", "auditor")
"""Roles whose people show a one-time code beside their password."""


class NewUser(Said):
    """A person to let in."""

    name: Name
    title: str = Field(default="", max_length=80, description="How people call them.")
    department: Name
    role: Role = "department"
    level: Level = Field(default=Level.INTERNAL, description="The highest level they may see.")


class UserChange(Said):
    """What changes of a person; what is left out stays. Their sessions end."""

    title: str | None = Field(default=None, max_length=80)
    department: Name | None = None
    role: Role | None = None
    level: Level | None = None


class User(Known):
    """A person who signs in, without what they sign in with."""

    name: str
    title: str
    department: str
    role: Role
    level: Level
    second_factor: bool
    """Whether a one-time code is asked for."""
    one_time_until: datetime | None
    """How long the one-time password can be used that is still to be replaced."""
    locked_until: datetime | None
    created_at: datetime
    disabled_at: datetime | None
    sessions: int = 0
    """That are open now."""


class IssuedUser(User):
    """A person with a one-time password, shown once."""

    password: str
