"""Algorithms, versions, aliases and promotions."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from citybrain.core.schemas.conversions import Form
from citybrain.core.schemas.history import Caller, Retirement, VersionEnd, VersionFailure
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
    forms: list[Form] = Field(default_factory=list)
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
    failures: list[VersionFailure] = Field(default_factory=list)
    """Versions that did not start when they were last asked to."""


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
    expected: int | None = Field(
        default=None, ge=0,
        description="The version that the alias points to, as the asker saw it (0: none); "
        "`alias_moved` when it has moved. Nothing: wherever it points.",
    )  # fmt: skip


class Promotion(Known):
    """A promotion and its state."""

    id: str
    algorithm: str
    alias: str
    version: int
    evaluation: str
    source: str = ""
    state: Literal["waiting", "done", "withdrawn", "overtaken"]
    """Overtaken: the alias moved before anybody decided."""
    asked_by: str
    decided_by: str
    at: datetime
    decided_at: datetime | None


class PromotionNotice(Known):
    """What a promotion would change, and for whom: shown before anybody decides."""

    algorithm: str
    alias: str
    version: int
    previous: int
    """The version behind the alias now; 0: none."""
    approval: Literal["self", "four-eyes"]
    callers: list[Caller]
    """Who called the algorithm in the last 30 days."""
