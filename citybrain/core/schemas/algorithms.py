"""Algorithms, versions, aliases and promotions."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from citybrain.core.schemas.history import Retirement, VersionEnd
from citybrain.core.schemas.people import Known, Said


class Version(Known):
    """One registered model of an algorithm: an MLflow model version."""

    algorithm: str
    version: int
    digest: str
    run_id: str
    source: Literal["package", "mlflow"]
    created_at: datetime
    aliases: list[str] = Field(default_factory=list)
    metrics: dict[str, float] = Field(default_factory=dict)
    lineage: dict[str, str] = Field(default_factory=dict)
    problem: str = ""
    """Why this version cannot be used, when it cannot."""


class Algorithm(Known):
    """A named ability in the catalogue."""

    name: str
    title_zh: str
    title_en: str
    description: str
    task: str
    domain: str
    owner: str
    licence: str
    approval: Literal["self", "four-eyes"]
    latest: int
    aliases: dict[str, int] = Field(default_factory=dict)


class AlgorithmPage(Known):
    """An algorithm with all its versions and how to call it."""

    algorithm: Algorithm
    versions: list[Version]
    manifest: dict[str, Any]
    signature: dict[str, Any]
    example: dict[str, Any]
    retirements: list[Retirement] = Field(default_factory=list)
    ends: list[VersionEnd] = Field(default_factory=list)
    """Versions that were withdrawn or deleted."""


class AliasMove(Known):
    """One promotion or rollback, as it stands in the history."""

    algorithm: str
    alias: str
    version: int
    previous: int
    reason: str
    moved_by: str
    at: datetime


class NewPromotion(Said):
    """A version that should stand behind an alias."""

    version: int | None = Field(default=None, ge=1, description="Nothing: the challenger.")
    alias: str = Field(default="champion", max_length=63)
    source: str = Field(
        default="", max_length=63, description="An alias to copy the version from, instead."
    )


class Promotion(Known):
    """A promotion and its state."""

    id: str
    algorithm: str
    alias: str
    version: int
    evaluation: str
    source: str = ""
    state: Literal["waiting", "done", "withdrawn"]
    asked_by: str
    decided_by: str
    at: datetime
    decided_at: datetime | None
