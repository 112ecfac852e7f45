"""The little HTTP that the doors need on top of ASGI: read a bounded body, send an answer."""

from __future__ import annotations

import asyncio
import math
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any

from citybrain.core.errors import (
    BadEncoding,
    BadJson,
    CityBrainError,
    InvalidInput,
    Overloaded,
    TooLarge,
    Unavailable,
)
from citybrain.serving.problems import problem_body, status_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = dict[bytes, bytes]

JSON = b"application/json"
PROBLEM = b"application/problem+json"
SESSION = "cb_session"
MAX_TIMEOUT_MS = 3_600_000
ENCODINGS = {b"gzip": 31, b"deflate": 15}
"""Content codings that a body may have, and zlib's word for each."""


class Disconnected(Exception):
    """The client left before its body was complete."""


async def read_body(receive: Receive, headers: Headers, limit: int) -> bytes:
    """The whole body, unpacked; TooLarge as soon as it is known to be longer than the limit."""
    coding = headers.get(b"content-encoding")
    if coding is None or (coding := coding.strip().lower()) == b"identity":
        return await _whole_body(receive, headers, limit)
    if coding not in ENCODINGS:
        raise BadEncoding(
            f"The body has the Content-Encoding {coding[:40].decode('latin-1')!r}.",
            hint=f"Send it plain, or as {b' or '.join(ENCODINGS).decode()}.",
        )
    packed = await _whole_body(receive, headers, limit)
    # On a thread: other calls do not wait while a large body is unpacked.
    return await asyncio.to_thread(_unpacked, packed, coding, limit)


def _unpacked(packed: bytes, coding: bytes, limit: int) -> bytes:
    unpacker = zlib.decompressobj(ENCODINGS[coding])
    try:
        body = unpacker.decompress(packed, limit + 1)
    except zlib.error as error:
        raise BadJson(f"The body is not {coding.decode()} data.") from error
    if len(body) > limit:
        raise TooLarge(f"The body is longer than {limit} bytes when it is unpacked.")
    if not unpacker.eof or unpacker.unused_data:
        raise BadJson(f"The body is not one whole piece of {coding.decode()} data.")
    return body


async def _whole_body(receive: Receive, headers: Headers, limit: int) -> bytes:
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > limit:
        raise TooLarge(f"The body has {int(length)} bytes; this route takes at most {limit}.")
    message = await receive()
    if message["type"] == "http.disconnect":
        raise Disconnected
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        if len(body) > limit:
            raise TooLarge(f"The body is longer than the {limit} bytes that this route takes.")
        return body
    parts, size = [body], len(body)
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise TooLarge(f"The body is longer than the {limit} bytes that this route takes.")
    return b"".join(parts)


async def respond(
    send: Send, body: bytes, *, status: int = 200, kind: bytes = JSON,
    extra: tuple[tuple[bytes, bytes], ...] = (),
) -> None:  # fmt: skip
    """One answer with its length."""
    headers = [
        (b"content-type", kind),
        (b"content-length", str(len(body)).encode()),
        *extra,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def respond_problem(
    send: Send, error: CityBrainError, request_id: str = "",
    extra: tuple[tuple[bytes, bytes], ...] = (),
) -> None:  # fmt: skip
    """An error as RFC 9457 problem details."""
    body = problem_body(error, request_id)
    extra = (*extra, *problem_headers(error))
    await respond(send, body, status=status_of(error), kind=PROBLEM, extra=extra)


def problem_headers(error: CityBrainError) -> tuple[tuple[bytes, bytes], ...]:
    """What the answer to an error says besides its body."""
    found = []
    if isinstance(error, Overloaded):
        found += [(b"retry-after", b"%d" % error.retry_after), *error.headers]
    elif isinstance(error, Unavailable):
        found.append((b"retry-after", b"1"))
    if status_of(error) == 401:
        found.append((b"www-authenticate", b"Bearer"))
    if status_of(error) == 415:
        found.append((b"accept-encoding", b", ".join(ENCODINGS)))
    if status_of(error) == 413:
        found.append((b"connection", b"close"))  # the rest of the body is not read
    return tuple(found)


def timeout_in(value: bytes) -> float:
    """Seconds that a caller gives its call, from milliseconds in a header; none: without end."""
    if not value:
        return math.inf
    if not value.isdigit() or not 0 < int(value[:12]) <= MAX_TIMEOUT_MS:
        raise InvalidInput(
            f"x-request-timeout-ms must be a whole number from 1 to {MAX_TIMEOUT_MS}.",
            hint="Leave it out for the platform's own limit.",
        )
    return int(value) / 1e3


def gone_from(receive: Receive) -> Callable[[], bool] | None:
    """Whether the client has hung up, asked without waiting; None where the server cannot tell.

    ASGI tells only who awaits `receive`; uvicorn's is a method of an object that knows already.
    """
    cycle: Any = getattr(receive, "__self__", None)
    if not hasattr(cycle, "disconnected"):
        return None
    return lambda: bool(cycle.disconnected)


def hang_up(receive: Receive) -> None:
    """End the connection at once, with what is still to be written, where the server can."""
    transport: Any = getattr(getattr(receive, "__self__", None), "transport", None)
    if transport is not None:
        transport.abort()


def named(send: Send, request_id: str) -> Send:
    """`send`, with the request id in the head of every answer."""
    name = (b"x-request-id", request_id.encode())

    async def send_named(message: Message) -> None:
        if message["type"] == "http.response.start" and name not in message["headers"]:
            message["headers"] = [*message["headers"], name]
        await send(message)

    return send_named


def bearer(headers: Headers) -> str:
    """The key of `Authorization: Bearer …`, or an empty string."""
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    return key.strip().decode("latin-1") if scheme.lower() == b"bearer" else ""


def forwarded(headers: Headers) -> str:
    """For whom the peer says that it asks; believed of a named proxy alone."""
    return headers.get(b"x-forwarded-for", b"")[:1000].decode("latin-1")


def session(headers: Headers) -> str:
    """The console's session cookie, accepted only with the header that no foreign page can send."""
    raw = headers.get(b"cookie")
    if raw is None or headers.get(b"x-requested-with") != b"citybrain":
        return ""
    try:
        cookie = SimpleCookie(raw.decode("latin-1"))
    except CookieError:
        return ""
    return cookie[SESSION].value if SESSION in cookie else ""
