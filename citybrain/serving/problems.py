"""Errors at the doors: the one table from error classes to HTTP, and RFC 9457 bodies."""

from __future__ import annotations

from typing import Any

import orjson

from citybrain.core.errors import (
    BadEncoding,
    BadJson,
    BadRequest,
    Cancelled,
    CityBrainError,
    Conflict,
    DeadlineExceeded,
    HeadTooLarge,
    InvalidInput,
    ModelFailed,
    NotFound,
    NotSignedIn,
    Overloaded,
    Refused,
    Retired,
    TooLarge,
    Unavailable,
    UrlTooLong,
    error_from,
)

STATUS: dict[type[CityBrainError], int] = {
    BadJson: 400,
    BadRequest: 400,
    TooLarge: 413,
    UrlTooLong: 414,
    HeadTooLarge: 431,
    BadEncoding: 415,
    InvalidInput: 422,
    NotSignedIn: 401,
    Refused: 403,
    NotFound: 404,
    Retired: 410,
    Conflict: 409,
    ModelFailed: 500,
    Overloaded: 429,
    Cancelled: 499,
    DeadlineExceeded: 504,
    Unavailable: 503,
}
GRPC: dict[int, int] = {
    400: 3,
    401: 16,
    403: 7,
    404: 5,
    409: 9,
    410: 9,
    413: 3,
    415: 3,
    422: 3,
    429: 8,
    499: 1,
    503: 14,
    504: 4,
}
"""HTTP status to gRPC status code; what is missing is INTERNAL (13)."""


def status_of(error: CityBrainError) -> int:
    """The HTTP status of an error: that of its nearest listed class."""
    for ancestor in type(error).__mro__:
        if ancestor in STATUS:
            return STATUS[ancestor]
    return 500


def problem(error: CityBrainError, request_id: str = "") -> dict[str, Any]:
    """An error as RFC 9457 problem details; `error` repeats it for Open Inference clients."""
    body: dict[str, Any] = {
        "type": f"urn:citybrain:error:{error.code}",
        "title": (type(error).__doc__ or "").strip().splitlines()[0],
        "status": status_of(error),
        "code": error.code,
        "detail": error.message,
        "error": str(error),
    }
    if error.hint:
        body["hint"] = error.hint
    if request_id:
        body["request_id"] = request_id
    return body


def problem_body(error: CityBrainError, request_id: str = "") -> bytes:
    """The same as JSON bytes; text that is not Unicode is replaced, never an error of its own."""
    try:
        return orjson.dumps(problem(error, request_id))
    except TypeError:
        clean = error.message.encode(errors="replace").decode()
        return orjson.dumps(problem(type(error)(clean, hint=error.hint), request_id))


def from_problem(body: dict[str, Any]) -> CityBrainError:
    """The error that such a body stands for."""
    return error_from(
        str(body.get("code", "error")),
        str(body.get("detail", "")),
        str(body.get("hint", "")),
    )
