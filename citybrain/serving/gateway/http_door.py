"""uvicorn's HTTP protocol with a short way for inference.

ASGI costs a task, an event, three coroutines and a dozen small objects a request, more than all that
the gateway does with it. A plain inference call (its whole body behind a Content-Length, nothing
special asked of HTTP) is taken from the parser to the coalescer here, and its answer is written when
its frame is back, without any of that. Every other request, and every one with an error in its head,
goes on to ASGI, where the same gateway answers it.

A client that keeps its connection mostly sends the same head again, byte for byte. What it says is
known then, for as long as keys, grants and routes stay as they are, and nothing is parsed.

`uvicorn` hands its protocol class its parser's callbacks; what is overridden here is part of no public
interface, so `tests/integration/test_http_door.py` asks over a socket for all that is relied on.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from citybrain.core.errors import CityBrainError, Refused, ShuttingDown
from citybrain.core.settings import ServingSettings
from citybrain.serving.gateway.exchange import Exchange, Pairs
from citybrain.serving.gateway.gateway import Gateway, problem_of
from citybrain.serving.gateway.guard import Guarded
from citybrain.serving.gateway.inference import Inference, inference_route, opened
from citybrain.serving.gateway.messages import Headers, bearer, forwarded, session
from citybrain.serving.gateway.snapshot import Snapshot
from citybrain.serving.problems import problem_body
from citybrain.serving.wire import Call

MAX_URL = 512
JOINED_BYTES = 1 << 16
"""Up to here a body is copied behind its head, so that both leave in one write."""
KEPT = (b"/v2/", b"/v1/algorithms/")
"""Where a body is kept until it is whole; elsewhere it is passed on as it comes."""
ENDED = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n"
    b"retry-after: 1\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s"
)
LONG_WAY = (b"transfer-encoding", b"content-encoding", b"expect", b"upgrade")
"""Headers that ask more of HTTP than a plain call does."""


class HttpDoor(Guarded):
    """One connection."""

    def __init__(self, gateway: Gateway, settings: ServingSettings, **uvicorn: Any) -> None:
        super().__init__(settings, gateway.room, **uvicorn)
        self._gateway = gateway
        self._head = b""
        """The head of the last call, if it came with its body in one piece; its meaning follows."""
        self._known: Exchange | None = None
        self._snapshot: Snapshot | None = None
        self._keyed = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take it, unless it comes past the proxies that keep keys secret."""
        super().connection_made(transport)
        try:
            self._gateway.admit(self.client[0] if self.client else "", "http")
        except CityBrainError as error:
            self.refuse(error, linger=False)

    def data_received(self, data: bytes) -> None:
        """Take a call whose head is known, or parse."""
        between = not self._since
        if (
            between
            and (known := self._known) is not None
            and len(data) == len(self._head) + known.length
            and data.startswith(self._head)
            and self._is_free()
            and self._snapshot is self._gateway.directory.snapshot
        ):
            keep_alive = known.keep_alive and not self._gateway.closing.begun
            exchange = Exchange(self, known.inference, known.length, keep_alive=keep_alive)
            self.cycle = exchange  # type: ignore[assignment]
            self._begin(exchange, data[len(self._head) :])
            return
        before: Any = self.cycle
        snapshot = self._gateway.directory.snapshot
        self._parse(data)
        after: Any = self.cycle
        if (
            between and type(after) is Exchange and after is not before and not self._since
            and self._keyed  # a console's session ends by the clock, which changes no table
        ):  # fmt: skip
            end = data.find(b"\r\n\r\n") + 4
            if len(data) - end == after.length:
                self._head, self._known, self._snapshot = data[:end], after, snapshot

    def on_headers_complete(self) -> None:
        """Take the short way, or go on as uvicorn does."""
        self._check_head()
        self._kept = self.url.startswith(KEPT)
        exchange = self._exchange() if self._is_free() else None
        if exchange is not None:
            self.cycle = exchange  # type: ignore[assignment]
            return
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        HttpToolsProtocol.on_message_begin(self)
        self.url, self.headers, self.expect_100_continue = url, headers, expect
        self.scope["headers"] = headers
        self.headers = []  # trailers are headers of nothing
        super().on_headers_complete()
        if self._gateway.closing.begun:
            self.cycle.keep_alive = False

    def _exchange(self) -> Exchange | None:
        """A call that can go the short way."""
        url = self.url
        if not url.startswith(b"/v") or not url.endswith((b"/infer", b"/predict")):
            return None
        if b"%" in url or len(url) > MAX_URL:
            return None
        headers: Headers = dict(self.headers)
        if b"content-length" not in headers or any(name in headers for name in LONG_WAY):
            return None
        parser = self.parser
        if parser.get_method() != b"POST" or parser.get_http_version() != "1.1":
            return None
        try:
            route = inference_route(url.decode("latin-1"))
            if route is None:
                return None
            token = bearer(headers)
            self._keyed = bool(token)
            directory, said = self._gateway.directory, forwarded(headers)
            peer = self.client[0] if self.client else ""
            key = directory.identify(token, session(headers), peer, said)
            source = directory.source(peer, said)
            inference = opened(route, key, headers, self._gone, self._settings, source)
        except CityBrainError:
            return None  # ASGI's way says what is wrong
        length = int(headers[b"content-length"])
        if inference.events or length > inference.limit:
            return None
        keep_alive = parser.should_keep_alive() and not self._gateway.closing.begun
        return Exchange(self, inference, length, keep_alive=keep_alive)

    def _gone(self) -> bool:
        return self.transport.is_closing()

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body."""
        cycle: Any = self.cycle
        if type(cycle) is Exchange:
            cycle.body.append(body)
            if len(body) == cycle.length:
                return
        else:
            super().on_body(body)
        self._came(len(body))

    def on_message_complete(self) -> None:
        """Send a call on its way when its body is there."""
        self._since = 0.0
        if self._content:
            self._room.arrived(self)
        cycle: Any = self.cycle
        if type(cycle) is Exchange:
            body, cycle.body = cycle.body, []
            self._begin(cycle, body[0] if len(body) == 1 else b"".join(body))
        else:
            super().on_message_complete()

    def _begin(self, exchange: Exchange, body: bytes) -> None:
        exchange.request_id = self._gateway.new_request_id()
        call = exchange.inference.call(body, exchange.request_id)
        try:
            exchange.started = self._gateway.start(exchange.inference.asked, call, exchange)
        except Exception as error:  # as in ASGI: errors become answers here
            exchange.fail(problem_of(error))
            return
        if exchange.started is None:
            task = self.loop.create_task(self._infer(exchange, call))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _infer(self, exchange: Exchange, call: Call) -> None:
        try:
            exchange.succeed(await self._gateway.infer(exchange.inference.asked, call))
        except Exception as error:
            exchange.fail(problem_of(error))

    def notice(self, inference: Inference, error: CityBrainError) -> Pairs:
        """A retired algorithm's notice beside an error, for who may call it."""
        if isinstance(error, Refused):
            return ()
        notice = self._gateway.directory.notice(inference.asked.ref)
        return notice.headers if notice else ()

    def write_answer(self, exchange: Exchange, head: bytes, body: bytes) -> None:
        """Write one answer, and let the next request come."""
        exchange.response_complete = True
        if self.transport.is_closing():
            return
        if len(body) <= JOINED_BYTES:
            self.transport.write(head + body)
        else:
            self.transport.writelines([head, body])
        if not exchange.keep_alive:
            self.transport.close()
        self.on_response_complete()
        if self.flow.write_paused:  # the client does not read: take no more calls from it
            self.flow.pause_reading()

    def resume_writing(self) -> None:
        """Go on when the client has read."""
        super().resume_writing()
        self.flow.resume_reading()

    def on_response_complete(self) -> None:
        """As uvicorn's, with one look at all idle connections in place of a timer for each."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._idle_since = self.loop.time()

    def count_refused(self, error: CityBrainError) -> None:
        """For the figures: who it was is not known."""
        self._gateway.count_refused(error)

    def leave(self) -> None:
        """The gateway ends: so does this connection, with the answer that is under way."""
        last: Any = self.pipeline[0][0] if self.pipeline else self.cycle
        if last is not None and not last.response_complete:
            last.keep_alive = False

    def is_answering(self) -> bool:
        """Whether a call that was taken is not answered yet."""
        cycle: Any = self.cycle
        return type(cycle) is Exchange and cycle.started is not None and not cycle.response_complete

    def end_if_quiet(self, moment: float, quiet: float) -> None:
        """Hang up on a client that has sent nothing for so long; `moment`: the loop's time."""
        coming_in = self._since and self.headers is not None
        if not coming_in and self._is_free() and moment - (self._since or self._idle_since) > quiet:
            self.transport.close()

    def cut(self) -> None:
        """Hang up; who still waits for an answer is told why."""
        if not self._is_free() and not getattr(self.cycle, "response_started", False):
            body = problem_body(ShuttingDown("The platform was stopped before an answer came."))
            self.transport.write(ENDED % (len(body), body))
        self.transport.close()


def http_door(gateway: Gateway, settings: ServingSettings) -> type[asyncio.Protocol]:
    """The protocol class for `uvicorn.Config(http=…)`."""

    class Door(HttpDoor):
        def __init__(self, **uvicorn: Any) -> None:
            super().__init__(gateway, settings, **uvicorn)

    return Door
