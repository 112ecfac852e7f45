"""How calls of an algorithm are shared among its deployments, and releases that are tried."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, model_validator

from citybrain.core.schemas.people import Known, Said

FEW = 20
"""Calls of either side of a split that say something about latency."""
Target = Annotated[str, Field(min_length=1, max_length=63, description="An alias or a version.")]


class Share(Said):
    """Which part of the calls a deployment answers."""

    target: Target
    percent: float = Field(ge=0, le=100)


class NewTraffic(Said):
    """How calls that name no alias or version are answered."""

    split: list[Share] = Field(
        default_factory=list, max_length=10, description="Adds up to 100; empty: all to champion."
    )
    shadow: str = Field(
        default="", max_length=63, description="Answers copies that no caller ever sees."
    )
    shadow_percent: float = Field(default=0, ge=0, le=100)
    fallback: list[Target] = Field(
        default_factory=list, max_length=3, description="Asked in turn when a deployment fails."
    )
    fallback_ms: int = Field(
        default=0, ge=0, le=600_000,
        description="Also after so many milliseconds without an answer; 0: only after a failure.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _fits(self) -> NewTraffic:
        """Refuse what could not take effect."""
        targets = [share.target for share in self.split]
        if len(set(targets)) < len(targets):
            raise ValueError("the split names a target twice")
        if self.split and abs(sum(share.percent for share in self.split) - 100) > 1e-6:
            raise ValueError("the split does not add up to 100 percent")
        if len(set(self.fallback)) < len(self.fallback):
            raise ValueError("fallback names a target twice")
        if bool(self.shadow) != bool(self.shadow_percent):
            raise ValueError("shadow and shadow_percent belong together")
        if self.fallback_ms and not self.fallback:
            raise ValueError("fallback_ms needs a fallback")
        return self


class Traffic(NewTraffic):
    """The same as it is in force."""

    algorithm: str
    canary: str = ""
    """The canary that moves the split, if one does."""
    since: datetime | None = None
    """When it was set; nothing where nobody set one."""

    @property
    def says_anything(self) -> bool:
        """Whether it does more than send all calls to the champion."""
        return bool(self.split or self.shadow or self.fallback)


class NewCanary(Said):
    """A release to try on a growing part of the calls."""

    target: Target
    base: Target = "champion"
    """The deployment that answers the other calls, and that it is compared with."""
    steps: list[float] = Field(
        default=[5, 25, 50, 100], min_length=1, max_length=20,
        description="Percent of the calls, growing.",
    )  # fmt: skip
    seconds: float = Field(default=60, gt=0, le=86_400, description="Least time of a step.")
    calls: int = Field(
        default=50, ge=FEW, le=100_000,
        description="Least calls of a step; fewer say nothing about latency.",
    )  # fmt: skip
    error_margin: float = Field(
        default=0.02, ge=0, lt=1, description="By how much its share of errors may be larger."
    )
    latency_ratio: float = Field(
        default=2.0, gt=1, le=100, description="How many times as slow it may be."
    )
    fallback: bool = Field(
        default=False,
        description="The base answers where the release fails; it fails all the same.",
    )

    @model_validator(mode="after")
    def _grows(self) -> NewCanary:
        ends = [0.0, *self.steps]
        if not all(after > before for before, after in zip(ends, self.steps, strict=False)):
            raise ValueError("steps must grow from above 0")
        if not self.steps[-1] <= 100:
            raise ValueError("steps end at 100 percent at most")
        return self


class CanaryStep(Known):
    """One entry of a canary's log."""

    at: datetime
    percent: float
    says: str


class Canary(Known):
    """A release on its way."""

    id: str
    algorithm: str
    target: str
    version: int
    base: str
    base_version: int
    plan: NewCanary
    state: Literal["running", "passed", "rolled-back", "stopped"]
    step: int
    """Index of the step in force."""
    log: list[CanaryStep]
    asked_by: str
    created_at: datetime
    moved_at: datetime

    @property
    def percent(self) -> float:
        """The share of calls that it answers now."""
        if self.state == "running":
            return self.plan.steps[self.step]
        return self.plan.steps[-1] if self.state == "passed" else 0.0
