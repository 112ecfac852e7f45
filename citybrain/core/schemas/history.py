"""What was true at a moment; retirements and withdrawn versions; who calls what."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from citybrain.core.schemas.people import Known, Said
from citybrain.core.schemas.traffic import Traffic


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
    """Of a range: at most."""
    min_replicas: int | None = None
    """Where a range began."""
    moved_by: str
    at: datetime
    version: int
    app: str
    since: datetime | None

    @property
    def wanted_replicas(self) -> str:
        """The number of replicas, or the range, as people write it."""
        least = "" if self.min_replicas is None else f"{self.min_replicas}.."
        return f"{least}{self.replicas}"


class TrafficThen(Traffic):
    """How calls were shared, and who had set it: somebody's key, or `canary` for its steps."""

    moved_by: str
    at: datetime


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
    """Aliases, deployments, traffic, grants and waiting promotions as they were at a moment."""

    at: datetime
    aliases: list[AliasThen]
    deployments: list[DeploymentThen]
    traffic: list[TrafficThen] = Field(default_factory=list)
    """Algorithms whose calls did not all go to the champion: splits, canaries, shadows, fallbacks."""
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


class VersionFailure(Known):
    """Why a version did not start when it was last asked to; forgotten when it starts."""

    algorithm: str
    version: int
    target: str
    """The deployment that asked."""
    message: str
    at: datetime


class Caller(Known):
    """A department's key that called an algorithm, and how often."""

    department: str
    key: str
    requests: int
    last: datetime
