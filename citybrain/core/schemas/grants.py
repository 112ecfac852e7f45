"""Asking for grants, stopping what must stop, staying with a version, and what is never collected."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import AwareDatetime, Field

from citybrain.core.levels import Level
from citybrain.core.names import Name
from citybrain.core.schemas.people import OPERATION, GrantKind, Known, Said

RequestState = Literal["waiting", "approved", "refused", "withdrawn"]
Stoppable = Literal["grant", "algorithm", "department", "key"]


class NewGrantRequest(Said):
    """What a department asks for."""

    department: Name
    algorithm: Name = Field(description="For `kind` view: the feature view.")
    kind: GrantKind = "algorithm"
    purpose: Name = OPERATION
    scenario: str = Field(default="", max_length=63)
    basis: str = Field(default="", max_length=500, description="The legal basis.")
    columns: list[str] = Field(default_factory=list, max_length=200)
    reason: str = Field(min_length=1, max_length=1000)
    until: AwareDatetime | None = Field(default=None, description="A year from now, if not said.")


class GrantRequest(Known):
    """A request, and what became of it."""

    id: str
    department: str
    kind: GrantKind
    algorithm: str
    purpose: str
    scenario: str
    basis: str
    columns: list[str]
    reason: str
    until: datetime | None
    state: RequestState
    asked_by: str
    decided_by: str
    answer: str
    grant_id: str
    created_at: datetime
    decided_at: datetime | None


class Decision(Said):
    """What the owner says to it."""

    answer: str = Field(default="", max_length=1000)


class NewSuspension(Said):
    """What is to stop at once."""

    kind: Stoppable
    target: str = Field(min_length=1, max_length=63)
    reason: str = Field(min_length=1, max_length=1000)


class Suspension(Known):
    """A stop, until it is lifted."""

    id: str
    kind: Stoppable
    target: str
    reason: str
    suspended_by: str
    at: datetime
    lifted_by: str
    lifted_at: datetime | None


class NewPin(Said):
    """The version that a department stays with."""

    version: int = Field(ge=1)


class Pin(Known):
    """A department's calls that name no version go to this one, while it runs."""

    department: str
    algorithm: str
    version: int
    set_by: str
    set_at: datetime


class NewDeidentification(Said):
    """A step that makes answers less sensitive than what went in."""

    kind: GrantKind = "algorithm"
    target: Name
    level: Level
    method: str = Field(min_length=10, max_length=1000)


class Deidentification(Known):
    """The same, and whether somebody else approved it."""

    id: str
    kind: GrantKind
    target: str
    level: Level
    method: str
    state: Literal["waiting", "approved", "ended"]
    asked_by: str
    decided_by: str
    created_at: datetime
    decided_at: datetime | None


class NewForbidden(Said):
    """A category of data that is never collected, or never joined with another."""

    category: Name
    joined: str = Field(default="", max_length=63, description="Empty: not collected at all.")
    reason: str = Field(min_length=1, max_length=1000)


class Forbidden(NewForbidden):
    """A line of the negative list."""

    id: str
    set_by: str
    set_at: datetime


class Notice(Known):
    """Something that a department should know."""

    id: int
    department: str
    kind: str
    target: str
    detail: dict[str, Any]
    at: datetime
    read_at: datetime | None
