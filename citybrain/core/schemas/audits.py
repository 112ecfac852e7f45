"""The audit trail's proofs."""

from __future__ import annotations

from datetime import datetime

from citybrain.core.schemas.people import Known, Said


class Checkpoint(Said):
    """How far the chain was on a day, signed by the platform; to be kept elsewhere."""

    day: str
    last: int
    hash: str
    count: int
    signed: str
    """The signer's name and signature of the statement: `name.base64`."""
    at: datetime


class Verification(Known):
    """Whether the trail is as it was written, else the first entry that is not, and why."""

    intact: bool
    count: int
    """Entries that were found good."""
    last: int
    hash: str
    first_bad: int | None = None
    reason: str = ""
    checkpoints: int = 0
    seconds: float = 0.0
