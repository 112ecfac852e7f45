"""Departments, keys, grants, audit entries, and who is acting."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from citybrain.core.names import Name

Role = Literal["admin", "developer", "department", "auditor"]
OPERATION = "operation"
PLATFORM = "platform"


class Said(BaseModel):
    """What a caller may say: unknown fields are refused, not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Known(BaseModel):
    """What the platform knows."""

    model_config = ConfigDict(frozen=True)


class NewDepartment(Said):
    """A department to add."""

    name: Name
    title_zh: str = Field(default="", max_length=80)
    title_en: str = Field(default="", max_length=80)


class Department(Known):
    """A tenant."""

    name: str
    title_zh: str
    title_en: str
    created_at: datetime


class NewKey(Said):
    """A key to issue."""

    department: Name
    role: Role = "department"
    purposes: list[Name] = Field(default_factory=lambda: [OPERATION], min_length=1, max_length=20)
    note: str = Field(default="", max_length=200)
    expires_at: AwareDatetime | None = None


class Key(Known):
    """A key without its secret."""

    id: str
    department: str
    role: Role
    purposes: list[str]
    note: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class IssuedKey(Key):
    """A key with its secret, shown once."""

    secret: str


class NewGrant(Said):
    """A grant to give."""

    department: Name
    algorithm: Name
    purpose: Name = OPERATION
    until: AwareDatetime | None = None


class Grant(Known):
    """A department may call an algorithm for a purpose."""

    id: str
    department: str
    algorithm: str
    purpose: str
    granted_by: str
    created_at: datetime
    until: datetime | None
    revoked_at: datetime | None


class Actor(Known):
    """Who stands behind a control act."""

    key: str
    department: str
    role: Role


class AuditEntry(Known):
    """One control act."""

    id: int
    at: datetime
    actor: str
    department: str
    action: str
    object: str
    detail: dict[str, Any]
