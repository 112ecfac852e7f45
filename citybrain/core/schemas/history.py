"""What was true at a moment; retirements and withdrawn versions; who calls what."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from citybrain.core.schemas.people import Known, Said


class AliasThen(Known):
    """Where an alias pointed, and who had set it."""

    algorithm: str
    alias: str
    version: int
    reason: str
    moved_by: str
    at: datetime


class DeploymentThen(Known):
    """What was wanted of a deployment, and which version answered (0: none)."""

    algorithm: str
    target: str
    wanted: bool
    replicas: int
    moved_by: str
    at: datetime
    version: int
    app: str
    since: datetime | None


class GrantThen(Known):
    """A grant that was in force."""

    id: str
    department: str
    algorithm: str
    purpose: str
    until: datetime | None
    moved_by: str
    at: datetime


class PromotionThen(Known):
    """A promotion that waited for its approval."""

    id: str
    algorithm: str
    alias: str
    version: int
    moved_by: str
    at: datetime


class AsOf(Known):
    """Aliases, deployments, grants and waiting promotions as they were at a moment."""

    at: datetime
    aliases: list[AliasThen]
    deployments: list[DeploymentThen]
    grants: list[GrantThen]
    waiting: list[PromotionThen] = Field(default_factory=list)


class NewRetirement(Said):
    """An algorithm, or one of its versions, that ends at a date."""

    version: int | None = Field(default=None, ge=1, description="Nothing: the whole algorithm.")
    sunset: str = Field(max_length=40, description="ISO date (its end) or moment.")
    replacement: str = Field(default="", max_length=127, description="NAME or NAME@target.")


class Retirement(Known):
    """A retirement in force; version 0 means the whole algorithm."""

    algorithm: str
    version: int
    sunset: datetime
    replacement: str
    moved_by: str
    at: datetime


class Withdrawal(Said):
    """Why a version is withdrawn."""

    reason: str = Field(min_length=3, max_length=1000)


class VersionEnd(Known):
    """A version that was withdrawn, or deleted."""

    algorithm: str
    version: int
    kind: str
    digest: str
    reason: str
    moved_by: str
    at: datetime


class Caller(Known):
    """A department's key that called an algorithm, and how often."""

    department: str
    key: str
    requests: int
    last: datetime
