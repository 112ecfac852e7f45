"""What a connection may cost, whoever is at the other end: its head, its framing, its time, its answers.

`uvicorn` and its parser take heads and framing of any size from anybody, wait for them without end, and
keep what nobody reads. Here all of that has a limit that is looked at before any key is.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Iterable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from citybrain.core.errors import (
    BadRequest,
    CityBrainError,
    HeadTooLarge,
    Unavailable,
    UrlTooLong,
)
from citybrain.core.settings import ServingSettings
from citybrain.serving.gateway.messages import PROBLEM, problem_headers
from citybrain.serving.gateway.waiting_room import WaitingRoom
from citybrain.serving.problems import problem_body, status_of

MAX_URL = 8 << 10
MAX_HEADERS = 64
MAX_HEAD = 16 << 10
MAX_FRAMING = 256 << 10
"""Bytes of a chunked body that are none of its content; a quarter of the content may come on top."""
MAX_UNWANTED = 1 << 20
"""Bytes of a body that are still read after its request was answered."""
SLOWEST = 1000
"""Bytes a second that a client sends or reads at least, in each `slow_client` seconds."""
HEAD_SECONDS = 10.0
CROWDED_SECONDS = 2.0
"""For a head, and between requests, while three quarters of the connections are taken."""
LINGER_SECONDS = 2.0
"""How long a refused client may read why; what it sends meanwhile is dropped."""
LOOK_SECONDS = 1.0
LOOK_AT_ONCE = 256
TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
TAKEN = slice(120, 128)
"""Where Linux's `tcp_info` has `tcpi_bytes_acked`."""


class Guarded(HttpToolsProtocol):
    """One connection within its limits."""

    def __init__(self, settings: ServingSettings, room: WaitingRoom, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._settings = settings
        self._room = room
        self.url = b""
        self._since = self._window = self.loop.time()
        """When the request began that is not whole yet; 0.0 while none is on its way in."""
        self._received = self._seen = self._content = 0
        """Bytes of it after its first piece (with it, while it has no whole head): all, those before
        the window, and those of content."""
        self._in_head = True
        self._brief = self._kept = self._deaf = False
        self._refused_at = self._idle_since = self._unread_since = 0.0
        self._taken = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take it, or say that there are enough."""
        super().connection_made(transport)
        if len(self.connections) > self._settings.max_connections:
            self.refuse(
                Unavailable(
                    "This gateway has as many connections as it takes.",
                    hint="Keep connections open for many calls, and try again in a second.",
                ),
                linger=False,
            )

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget what it had sent."""
        self._room.arrived(self)
        super().connection_lost(exc)

    def count_refused(self, error: CityBrainError) -> None:
        """Told of every request that is refused here."""
        raise NotImplementedError

    def _parse(self, data: bytes) -> None:
        if self._deaf:
            return
        fresh, before = not self._since or (self._in_head and not self._received), self.cycle
        # Only a head that comes in one short piece is surely short itself.
        self._brief = fresh and len(data) <= MAX_HEAD
        self._received += len(data)
        try:
            self.parser.feed_data(data)
            if self._since:
                if self._in_head and fresh and self.cycle is before:
                    self._received = len(data)
                self._check()
        except httptools.HttpParserUpgrade:
            pass  # it is answered like any other request
        except httptools.HttpParserError as error:
            ours = isinstance(error.__context__, CityBrainError) and error.__context__
            self.refuse(ours or BadRequest("What came is not HTTP."))
        except CityBrainError as error:
            self.refuse(error)

    def _check(self) -> None:
        """Look at a request that is not whole after a piece of it."""
        if self._in_head:
            if len(self.url) > MAX_URL:
                raise _url_too_long()
            if self._received > MAX_HEAD:
                raise _head_too_large()
        elif self._is_free():
            if self._received > MAX_UNWANTED:
                self.transport.close()
        elif self._received - self._content > MAX_FRAMING + self._content // 4:
            raise BadRequest(
                "The body is hardly more than its framing.", hint="Send it in larger chunks."
            )

    def _is_free(self) -> bool:
        """Whether the last request is answered; else uvicorn keeps the order of answers."""
        previous: Any = self.cycle
        return previous is None or previous.response_complete

    def on_message_begin(self) -> None:
        """Leave ASGI's scope for the requests that need one."""
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self._since = self._window = self.loop.time()
        self._received = self._seen = self._content = 0
        self._in_head = True

    def _check_head(self) -> None:
        """Look at a head that is whole."""
        headers = self.headers
        if len(self.url) > MAX_URL:
            raise _url_too_long()
        if len(headers) > MAX_HEADERS or not (self._brief or _size(headers) <= MAX_HEAD):
            raise _head_too_large()
        self._in_head = False

    def _came(self, size: int) -> None:
        """Count a piece of a body that is not whole."""
        self._content += size
        if self._kept:
            self._room.arrive(self, size)

    def refuse(self, error: CityBrainError, *, linger: bool = True) -> None:
        """Say why no more is read from this client, and hang up behind the answers still due."""
        self._deaf, self._since = True, self.loop.time()
        self._room.arrived(self)
        self.count_refused(error)
        cycle: Any = self.cycle
        if self.transport.is_closing():
            return
        if self._in_head:
            if not self._is_free():
                cycle.keep_alive = False
                return
        elif self.pipeline or getattr(cycle, "response_started", cycle.response_complete):
            self.transport.close()
            return
        else:
            cycle.disconnected = True
            cycle.body.clear()
            cycle.message_event.set()
        body = problem_body(error)
        pairs = ((b"content-type", PROBLEM), *problem_headers(error))
        lines = [b"%s: %s\r\n" % pair for pair in pairs if pair[0] != b"connection"]
        head = b"%scontent-length: %d\r\nconnection: close\r\n%s\r\n" % (
            STATUS_LINE[status_of(error)], len(body), b"".join(lines),
        )  # fmt: skip
        self.transport.write(head + body)
        if (
            linger and self.transport.can_write_eof()
        ):  # closed at once, what still comes in would make the kernel take the answer back
            self.transport.write_eof()
            self._refused_at = self._since
        else:
            self.transport.close()

    def look(self, moment: float) -> None:
        """Hang up on a client that takes too long over its request, or sends none any more.

        Or that does not read. `moment`: the loop's time.
        """
        if self._reads_too_slowly(moment):
            self.transport.abort()
        elif self._deaf:
            if self._refused_at and moment - self._refused_at > LINGER_SECONDS:
                self.transport.abort()
        elif self.transport.is_closing():
            return
        elif not self._since:
            if self._is_free() and moment - self._idle_since > self._spare(self.timeout_keep_alive):
                self.transport.close()
        elif self.flow.read_paused:  # it is we who are slow
            self._window, self._seen = moment, self._received
        elif self._in_head:
            slow = self._settings.slow_client
            if moment - self._since > self._spare(min(slow, HEAD_SECONDS)):
                self._cut()
        elif (passed := moment - self._window) > self._settings.slow_client:
            if self._received - self._seen < SLOWEST * passed:
                self._cut()
            self._window, self._seen = moment, self._received

    def _spare(self, seconds: float) -> float:
        """How long a connection may do nothing: less while others need its place."""
        crowded = len(self.connections) > self._settings.max_connections * 3 // 4
        return min(seconds, CROWDED_SECONDS) if crowded else seconds

    def _cut(self) -> None:
        if self._is_free() or not getattr(self.cycle, "response_started", False):
            self.transport.write(TOO_SLOW)
        self.transport.close()

    def _reads_too_slowly(self, moment: float) -> bool:
        if not self.transport.get_write_buffer_size():
            self._unread_since = 0.0
            return False
        connection = self.transport.get_extra_info("socket")
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TAKEN.stop)
        taken = int.from_bytes(info[TAKEN], sys.byteorder)
        passed = moment - self._unread_since if self._unread_since else 0.0
        if passed > self._settings.slow_client and taken - self._taken < SLOWEST * passed:
            return True
        if not passed or passed > self._settings.slow_client:
            self._unread_since, self._taken = moment, taken
        return False


def _size(headers: list[tuple[bytes, bytes]]) -> int:
    return sum(len(name) + len(value) + 4 for name, value in headers)


def _url_too_long() -> UrlTooLong:
    return UrlTooLong(f"The URL is longer than {MAX_URL} bytes.")


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(
        f"A request may have {MAX_HEADERS} headers, and {MAX_HEAD} bytes before its body."
    )


async def keep_clients(connections: Iterable[Any]) -> None:
    """Look at every open connection now and then, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        for number, connection in enumerate(list(connections)):
            if isinstance(connection, Guarded):
                connection.look(loop.time())
            if number % LOOK_AT_ONCE == LOOK_AT_ONCE - 1:
                await asyncio.sleep(0)  # calls go on between
