"""Limits of what departments use, and of what their deployments take."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Self

from pydantic import Field, model_validator

from citybrain.core.names import Name
from citybrain.core.schemas.people import Known, Said

Unit = Literal[
    "requests", "rows", "images", "audio-seconds", "texts", "series", "stream-hours", "tokens",
    "cpu-seconds", "gpu-seconds",
]  # fmt: skip
Per = Literal["second", "day", "month", "once"]


class NewQuota(Said):
    """A limit to set; it takes the place of the one with the same department, algorithm, unit and per."""

    department: Name
    algorithm: str = Field(default="", max_length=63, description="Empty: all of them together.")
    unit: Unit = "requests"
    per: Per = Field(default="day", description="`once`: calls at the same time.")
    amount: float = Field(gt=0, le=1e12)
    burst: float = Field(default=0, ge=0, le=1e9, description="Of a rate: so many at once.")

    @model_validator(mode="after")
    def _takes_effect(self) -> Self:
        if self.per == "once" and (self.unit != "requests" or self.amount != int(self.amount)):
            raise ValueError("calls at the same time are counted in whole requests")
        if self.per == "second" and self.unit in ("cpu-seconds", "gpu-seconds", "stream-hours"):
            raise ValueError(
                f"{self.unit} are known when they are over: limit them per day or month"
            )
        if self.burst and self.per != "second":
            raise ValueError("only a limit per second has a burst")
        return self


class Quota(NewQuota):
    """A limit that is in force."""

    id: str
    slot: int
    set_by: str
    set_at: datetime


class QuotaUse(Known):
    """A limit, and what is used of it now (with what calls under way may take)."""

    quota: Quota
    used: float
    left: float
    resets_at: datetime | None


class NewAllotment(Said):
    """What a department's deployments may take together; empty: no limit."""

    replicas: int | None = Field(default=None, ge=0)
    cpus: float | None = Field(default=None, ge=0)
    gpus: float | None = Field(default=None, ge=0)
    memory: int | None = Field(default=None, ge=0, description="Bytes.")


class Allotment(NewAllotment):
    """The same, as it was set."""

    department: str
    set_by: str
    set_at: datetime


class Taken(Known):
    """What deployments take together at most, with all their replicas."""

    replicas: int = 0
    cpus: float = 0.0
    gpus: float = 0.0
    memory: int = 0
    """Bytes of their models' files, once for each replica: what is known before one runs."""


class AllotmentUse(Known):
    """What a department's deployments may take, and what they take now."""

    allotment: Allotment
    taken: Taken
