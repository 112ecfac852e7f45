"""Prices, statements, ratings, and how scenarios are used."""

from __future__ import annotations

from datetime import datetime

from pydantic import AwareDatetime, Field

from citybrain.core.schemas.people import Known, Said
from citybrain.core.schemas.quotas import Unit

YUAN = 1_000_000
"""Prices and sums are whole millionths of a yuan."""


class NewPrice(Said):
    """A line of the price book."""

    unit: Unit = "requests"
    algorithm: str = Field(
        default="", max_length=63, description="Empty: all without a line of their own."
    )
    yuan: float = Field(ge=0, le=1_000_000, description="For one unit.")
    begins: AwareDatetime | None = Field(
        default=None, description="Now, if not said; never earlier."
    )
    note: str = Field(default="", max_length=500)


class Price(Known):
    """The same, with its version; a version is never changed."""

    id: int
    algorithm: str
    unit: Unit
    version: int
    micros: int
    begins: datetime
    note: str
    set_by: str
    set_at: datetime


class StatementLine(Known):
    """What a department used of an algorithm for a purpose under one version of a price."""

    number: int
    algorithm: str
    owner: str
    purpose: str
    scenario: str
    unit: str
    quantity: float
    requests: int
    price_micros: int
    price_version: int
    """0: no line of the price book."""
    micros: int
    begins: datetime
    """The part of the month that the price held for."""
    ends: datetime


class Statement(Known):
    """A department's month."""

    department: str
    month: str
    lines: list[StatementLine]
    micros: int
    requests: int
    failed: int
    """Calls that failed, which cost nothing."""
    issued_at: datetime | None = None
    digest: str = ""


class Income(Known):
    """What one department used and paid of another's algorithm."""

    algorithm: str
    department: str
    requests: int
    micros: int


class NewRating(Said):
    """What a caller thinks of an answer."""

    stars: int = Field(ge=1, le=5)
    reason: str = Field(default="", max_length=1000)


class Rating(Known):
    """The same, with what it is about."""

    request_id: str
    department: str
    algorithm: str
    version: int
    scenario: str
    stars: int
    reason: str
    rated_by: str
    at: datetime


class OneCall(Known):
    """A row of the ledger, for the department that made the call."""

    request_id: str
    at: datetime
    algorithm: str
    version: int
    purpose: str
    scenario: str
    door: str
    state: str
    status: int
    rows: int
    unit: str
    amount: float
    micros: int


class PurposeUse(Known):
    """How often a department called an algorithm for a purpose in a month."""

    department: str
    algorithm: str
    purpose: str
    requests: int
    failed: int


class OperationWeek(Known):
    """A week of a scenario, which ends on this day."""

    ends: str
    active: int
    requests: int
    failed: int
    stars: float | None


class ScenarioUse(Known):
    """How a scenario is used now."""

    scenario: str
    registered: int
    """Departments that hold a grant for it."""
    active_day: int
    active_week: int
    use_rate: float
    """Of the registered departments, those that called within the week."""
    requests: int
    error_rate: float
    satisfaction: float | None
    ratings: int


class Operation(ScenarioUse):
    """The same with the weeks before: the plan's operation evaluation."""

    trend: list[OperationWeek]


class LowUse(Known):
    """An algorithm that hardly anybody calls."""

    algorithm: str
    owner: str
    requests: int
    departments: int
    last_day: str
