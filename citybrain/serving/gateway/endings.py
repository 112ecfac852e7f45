"""The replies that a gateway itself gives, where no replica does."""

from __future__ import annotations

from citybrain.core.errors import (
    Cancelled,
    CityBrainError,
    DeadlineExceeded,
    ModelFailed,
    Unavailable,
)
from citybrain.serving.wire import Reply, Served, error_reply


def unrecorded() -> Reply:
    """What a caller gets whose call the ledger would miss."""
    return as_reply(Unavailable("The usage of this call cannot be recorded."))


def expired() -> Reply:
    """What a caller gets when the time is over that it gave."""
    return as_reply(
        DeadlineExceeded(
            "The call's own time was over before its answer.",
            hint="Say a longer x-request-timeout-ms, or ask for more replicas.",
        )
    )


def too_late(seconds: float) -> Reply:
    """What a caller gets when the time is over that the platform gives."""
    return as_reply(DeadlineExceeded(f"No answer came within {seconds:g} seconds."))


def hung_up() -> Reply:
    """What the ledger gets for a caller that does not wait any more."""
    return as_reply(Cancelled("The caller hung up."))


def failed(error: Exception, calls: int) -> Served:
    """What every caller of a frame gets that failed."""
    if not isinstance(error, CityBrainError):
        error = ModelFailed(f"The replica failed ({type(error).__name__}).")
    return Served([as_reply(error)] * calls)


def as_reply(error: CityBrainError) -> Reply:
    """An error as a reply."""
    return error_reply(error.code, error.message, error.hint)
