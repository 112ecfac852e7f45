"""Departments, keys, grants, audit entries, and who is acting."""

from __future__ import annotations

from datetime import datetime
from ipaddress import ip_network
from typing import Annotated, Any, Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator

from citybrain.core.levels import Level
from citybrain.core.names import Name

Role = Literal["admin", "developer", "department", "auditor"]
Tier = Literal["city", "district", "township"]
TIERS: tuple[Tier, ...] = get_args(Tier)
GrantKind = Literal["algorithm", "view"]
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
    parent: str = Field(default="", max_length=63, description="The one above; empty: none.")
    tier: Tier | None = Field(default=None, description="Nothing: its parent's, else city.")


class DepartmentChange(Said):
    """What changes of a department; what is left out stays."""

    title_zh: str | None = Field(default=None, max_length=80)
    title_en: str | None = Field(default=None, max_length=80)
    parent: str | None = Field(default=None, max_length=63, description="Empty: none above it.")
    tier: Tier | None = None


class Department(Known):
    """A tenant."""

    name: str
    title_zh: str
    title_en: str
    parent: str = ""
    tier: Tier = "city"
    created_at: datetime


class NewKey(Said):
    """A key to issue."""

    department: Name
    role: Role = "department"
    purposes: list[Name] = Field(default_factory=lambda: [OPERATION], min_length=1, max_length=20)
    note: str = Field(default="", max_length=200)
    expires_at: AwareDatetime | None = None
    level: Level = Level.INTERNAL
    scopes: list[Annotated[str, Field(max_length=80)]] = Field(default_factory=list, max_length=50)
    networks: list[Annotated[str, Field(max_length=50)]] = Field(
        default_factory=list, max_length=50
    )

    @field_validator("networks")
    @classmethod
    def _are_networks(cls, said: list[str]) -> list[str]:
        return [str(ip_network(one.strip(), strict=False)) for one in said]


class NewRotation(Said):
    """A key's replacement by a new one with the same rights."""

    overlap_seconds: int = Field(default=3600, ge=0, le=30 * 86_400)
    """How long the old one goes on."""
    expires_at: AwareDatetime | None = Field(
        default=None, description="Of the new one; nothing: as the old one's. Admins alone."
    )


class Key(Known):
    """A key, or a person's session (`user`), without its secret."""

    id: str
    department: str
    role: Role
    purposes: list[str]
    note: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    user: str = ""
    level: Level = Level.INTERNAL
    scopes: list[str] = []
    networks: list[str] = []
    successor: str = ""
    source: str = Field(default="", exclude=True)
    """The address that it is used from, while it is used; kept nowhere with the key."""


class IssuedKey(Key):
    """A key with its secret, shown once."""

    secret: str


class NewGrant(Said):
    """A grant to give."""

    department: Name
    algorithm: Name
    purpose: Name = OPERATION
    until: AwareDatetime | None = None
    kind: GrantKind = "algorithm"
    scenario: str = Field(default="", max_length=63)
    basis: str = Field(default="", max_length=500, description="The legal basis.")
    columns: list[str] = Field(default_factory=list, max_length=200)


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
    kind: GrantKind = "algorithm"
    scenario: str = ""
    basis: str = ""
    columns: list[str] = []


class Actor(Known):
    """Who stands behind a control act."""

    key: str
    department: str
    role: Role
    user: str = ""
    source: str = ""
    """The address that it acts from."""

    @classmethod
    def of(cls, key: Key) -> Actor:
        """Who acts with this key."""
        return cls(
            key=key.id, department=key.department, role=key.role, user=key.user, source=key.source
        )  # fmt: skip

    @property
    def person(self) -> str:
        """Who it is when two must be two: the person of a session, else the key."""
        return self.user or self.key


class AuditEntry(Known):
    """One control act."""

    id: int
    at: datetime
    actor: str
    department: str
    action: str
    object: str
    detail: dict[str, Any]
