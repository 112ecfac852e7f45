"""An answer in parts over HTTP: server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

`event: part` for each part as it is ready, then `event: result` with the whole answer, which is the same
body as without events, or `event: error` with the same body as an error has.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from citybrain.serving.gateway.gateway import problem_of
from citybrain.serving.gateway.inference import EVENTS
from citybrain.serving.gateway.messages import Send
from citybrain.serving.problems import problem_body
from citybrain.serving.wire import Reply

_HEAD = (
    (b"content-type", EVENTS),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # asks a proxy of nginx's kind to hold no part back
)


class TooSlow(Exception):
    """The client does not read what it asked for."""


async def respond_events(
    send: Send, replies: AsyncGenerator[Reply], request_id: str,
    extra: tuple[tuple[bytes, bytes], ...], gone: Callable[[], bool] | None, patience: float,
) -> None:  # fmt: skip
    """Send each reply as an event; TooSlow if the client takes longer than `patience` over one.

    The next part is asked for when the client's buffers have taken the last.
    """
    await send({"type": "http.response.start", "status": 200, "headers": [*_HEAD, *extra]})
    number = 0
    async with aclosing(replies):
        try:
            async for reply in replies:
                number += 1
                kind = b"part" if reply.more else b"result"
                await _event(send, kind, request_id, number, reply.body, patience)
                if gone is not None and gone():
                    return
        except TooSlow:
            raise
        except Exception as reason:  # the status is long sent: what went wrong is the last event
            body = problem_body(problem_of(reason), request_id)
            await _event(send, b"error", request_id, number + 1, body, patience)
    await send({"type": "http.response.body", "body": b""})


async def _event(
    send: Send, kind: bytes, request_id: str, number: int, body: bytes, patience: float
) -> None:
    head = b"id: %s/%d\nevent: %s\ndata: " % (request_id.encode(), number, kind)
    try:
        async with asyncio.timeout(patience):
            await send(
                {"type": "http.response.body", "body": head + body + b"\n\n", "more_body": True}
            )
    except TimeoutError as error:
        raise TooSlow from error
