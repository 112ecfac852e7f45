"""The little HTTP that the doors need on top of ASGI: read a bounded body, send an answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any

from citybrain.core.errors import CityBrainError, Overloaded, TooLarge, Unavailable
from citybrain.serving.problems import problem_body, status_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = dict[bytes, bytes]

JSON = b"application/json"
PROBLEM = b"application/problem+json"
SESSION = "cb_session"


class Disconnected(Exception):
    """The client left before its body was complete."""


async def read_body(receive: Receive, headers: Headers, limit: int) -> bytes:
    """The whole body; TooLarge as soon as it is known to be longer than the limit."""
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
    found = list(extra)
    if isinstance(error, Overloaded | Unavailable):
        found.append((b"retry-after", b"1"))
    if status_of(error) == 401:
        found.append((b"www-authenticate", b"Bearer"))
    if status_of(error) == 413:
        found.append((b"connection", b"close"))  # the rest of the body is not read
    body = problem_body(error, request_id)
    await respond(send, body, status=status_of(error), kind=PROBLEM, extra=tuple(found))


def bearer(headers: Headers) -> str:
    """The key of `Authorization: Bearer …`, or an empty string."""
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    return key.strip().decode("latin-1") if scheme.lower() == b"bearer" else ""


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
