"""How long logs and payloads are kept."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from citybrain.core.schemas.people import Known, Said


class NewRetention(Said):
    """How many days a log is kept from now on."""

    days: int | None = Field(ge=1, le=36_500, description="Nothing: the platform's own number.")


class Retention(Known):
    """A log, and how long it is kept."""

    log: str
    says: str
    """What is kept."""
    days: float
    default: float
    least: int
    """It is never kept shorter."""
    setting: str = ""
    """The setting that says it instead; empty: it can be said here."""
    set_by: str = ""
    set_at: datetime | None = None
