"""The sampled prediction log: how much of an algorithm's calls it keeps, and its rows."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from citybrain.core.schemas.people import Known, Said


class NewSampling(Said):
    """How many calls of an algorithm are kept, and how long; what is not said is the platform's."""

    rate: float | None = Field(default=None, ge=0, le=1, description="Share of calls; 0: none.")
    keep_days: int | None = Field(default=None, ge=1, le=3650)


class Sampling(Known):
    """The same as it is in force."""

    algorithm: str
    rate: float
    keep_days: int
    own: NewSampling = NewSampling()
    """What was said for this algorithm."""


class Prediction(Known):
    """One sampled call."""

    request_id: str
    at: datetime
    algorithm: str
    version: int
    target: str
    department: str
    purpose: str
    door: str
    status: int
    code: str
    rows: int
    latency_ms: float
    work_ms: float
    rate: float
    input: Any = None
    input_digest: str
    output: Any = None
    output_digest: str | None = None
