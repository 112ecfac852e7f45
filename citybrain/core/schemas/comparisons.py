"""What two sides of a split have shown about each other."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from citybrain.core.schemas.people import Known


class Side(Known):
    """A deployment, and what the calls that a split drew to it came to."""

    target: str
    version: int
    calls: int
    failed: int
    p50_ms: float
    p95_ms: float


class Difference(Known):
    """By how much the other side differs from the base, and how sure that is."""

    of: Literal["failures", "latency"]
    p: float | None = None
    """How often chance alone would show a difference like this; none: too few calls to say."""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    """Other minus base with its 95 % interval: shares of failures, or milliseconds of the medians."""
    more_calls: int = 0
    """About how many more calls to both would show a difference that matters; 0: they were enough."""
    says: str


class Comparison(Known):
    """Two sides of a split in one window."""

    algorithm: str
    since: datetime
    until: datetime | None = None
    base: Side
    other: Side
    failures: Difference
    latency: Difference
