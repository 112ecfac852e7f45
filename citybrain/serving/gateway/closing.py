"""How a gateway ends: what is under way is answered, and nobody is cut off in the middle.

It is not ready any more from the first moment, and every answer says that its connection ends with
it. What else happens depends on who is there afterwards. A gateway that is restarted has siblings:
it takes the connections that the kernel holds for it, leaves all further ones to them, and answers
calls until its clients have gone. When the platform stops nobody is there: new calls are refused,
and connections are taken to say so, until the calls under way are answered.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from citybrain.core.errors import ShuttingDown

log = logging.getLogger(__name__)
PAUSE = 0.05
QUIET_SECONDS = 3.0
"""Seconds without a request after which a connection is ended; who sends one is told to go."""
LAST_SECONDS = 0.5
"""The same where the platform stops: whoever calls is refused within a moment."""


class Closing:
    """Whether this gateway is about to end, for all its doors to see."""

    def __init__(self) -> None:
        self.begun = False
        self.refuses = False
        self._readers: set[asyncio.Task[None]] = set()

    def begin(self, *, refuse: bool) -> None:
        """Be ready no more, and with `refuse` take no new calls."""
        self.begun, self.refuses = True, refuse
        for reader in self._readers:
            reader.cancel()

    def check(self) -> None:
        """ShuttingDown if new calls are refused."""
        if self.refuses:
            raise ShuttingDown("The platform is being stopped.", hint="Repeat it once it is back.")

    @contextmanager
    def reading(self, reader: asyncio.Task[None]) -> Iterator[None]:
        """A task that waits for a client's next request on a stream: it is cancelled at the end."""
        self._readers.add(reader)
        try:
            yield
        finally:
            self._readers.discard(reader)


class DoorServer(uvicorn.Server):
    """uvicorn's server, which ends as this module says."""

    def __init__(
        self, config: uvicorn.Config, closing: Closing, seconds: float,
        stop_grpc: Callable[[float], Awaitable[None]],
    ) -> None:  # fmt: skip
        super().__init__(config)
        self._closing = closing
        self._seconds = seconds
        self._stop_grpc = stop_grpc

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process, which has more to end than this server."""
        yield

    def leave(self, *, refuse: bool) -> None:
        """Begin to end."""
        self._closing.begin(refuse=refuse)
        for connection in self._connections():
            connection.leave()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what is under way, within the seconds that there are for it."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._seconds
        if self._closing.refuses:
            await self._while(self._at_work, end)
            await self._close(sockets or [])
            await self._while(lambda: self._anybody(LAST_SECONDS), end)
            await self._stop_grpc(max(LAST_SECONDS, end - loop.time()))
        else:
            await self._close(sockets or [])
            await asyncio.gather(
                self._stop_grpc(self._seconds),
                self._while(lambda: self._anybody(QUIET_SECONDS), end),
            )
        left = self._connections()
        if left:
            log.warning("%d calls were not answered within %g s", len(left), self._seconds)
        for connection in left:
            connection.cut()
        await asyncio.sleep(0)
        for server in self.servers:
            await server.wait_closed()

    async def _close(self, sockets: Iterable[socket.socket]) -> None:
        """Take the connections that the kernel made for us already, and no more."""
        taken = []
        for listening in sockets:
            try:
                while True:
                    taken.append(listening.accept()[0])
            except OSError:  # no further one
                pass
        for server in self.servers:
            server.close()
        for listening in sockets:
            listening.close()
        loop = asyncio.get_running_loop()
        for accepted in taken:
            accepted.setblocking(False)
            await loop.connect_accepted_socket(self._protocol, accepted, ssl=self.config.ssl)

    def _protocol(self) -> asyncio.Protocol:
        protocol: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

    def _connections(self) -> list[Any]:
        return list(self.server_state.connections)

    def _at_work(self) -> bool:
        tasks = bool(self.server_state.tasks)
        return tasks or any(connection.is_answering() for connection in self._connections())

    def _anybody(self, quiet: float) -> bool:
        moment = asyncio.get_running_loop().time()
        for connection in self._connections():
            connection.end_if_quiet(moment, quiet)
        return bool(self.server_state.connections or self.server_state.tasks)

    @staticmethod
    async def _while(condition: Callable[[], bool], end: float) -> None:
        loop = asyncio.get_running_loop()
        while condition() and loop.time() < end:  # noqa: ASYNC110 - of many connections, at once
            await asyncio.sleep(PAUSE)
