"""Every lane that a gateway holds: found by their names in a folder, kept open, the idlest first.

What lies there is a socket, or the address of a lane on another node.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from pathlib import Path

import msgspec

from citybrain.core.settings import TlsFiles
from citybrain.core.sockets import address_of
from citybrain.serving.gateway.lane_end import Lane
from citybrain.serving.lane_doors import prefix, private_folder
from citybrain.serving.lane_far import read_far
from citybrain.serving.lane_tls import context, watch_over
from citybrain.serving.notes import SUFFIX

log = logging.getLogger(__name__)
LOOK_SECONDS = 0.2
REACH_SECONDS = 5.0
"""For connecting to a lane on another node, and until that is tried again."""


class Lanes:
    """Every lane that this gateway holds open, by application."""

    def __init__(self, folder: Path, tls: TlsFiles | None = None) -> None:
        self._folder = private_folder(folder)
        self._tls = tls
        self._context: ssl.SSLContext | None = None
        self._lanes: dict[str, Lane] = {}
        self._by_prefix: dict[str, list[Lane]] = {}
        self._reaching: dict[str, asyncio.Task[None]] = {}

    def idlest(self, app: str) -> Lane | None:
        """The open lane of an application with the fewest frames away."""
        best = None
        for lane in self._by_prefix.get(prefix(app), ()):
            if lane.open and (best is None or lane.load < best.load):
                best = lane
        return best

    def count(self, app: str) -> int:
        """How many lanes of an application are open."""
        return sum(lane.open for lane in self._by_prefix.get(prefix(app), ()))

    async def keep(self) -> None:
        """Open what is announced and forget what is gone, until cancelled."""
        try:
            while True:
                try:
                    await self.look()
                except Exception:  # frames go by handle meanwhile; the next look may succeed
                    log.exception("the lanes could not be looked at")
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            for task in self._reaching.values():
                task.cancel()
            for lane in self._lanes.values():
                lane.abort()

    async def look(self) -> None:
        """Open what is announced now, and forget what is gone; far lanes open in their own time."""
        gone = [name for name, lane in self._lanes.items() if not lane.open]
        for name in gone:
            if self._lanes.pop(name).left:
                self._clear(name)
        opened = False
        for entry in os.scandir(self._folder):
            name = entry.name
            if not name.endswith(SUFFIX) or name in self._lanes or name in self._reaching:
                continue
            if entry.is_file(follow_symlinks=False):
                self._reaching[name] = asyncio.create_task(self._reach(name))
            else:
                opened |= await self._connect(name)
        if gone or opened:
            self._sort()

    def _sort(self) -> None:
        self._by_prefix = {}
        for name, lane in self._lanes.items():
            self._by_prefix.setdefault(name[: len(prefix(""))], []).append(lane)

    def _clear(self, name: str) -> None:
        """Nobody answers there: its replica left, or was killed and could not withdraw it."""
        (self._folder / name).unlink(missing_ok=True)

    async def _connect(self, name: str) -> bool:
        try:
            with address_of(self._folder / name) as address:
                _, lane = await asyncio.get_running_loop().create_unix_connection(
                    lambda: Lane(name), address
                )
        except ConnectionRefusedError:
            self._clear(name)
            return False
        except OSError:  # withdrawn in this moment
            return False
        self._lanes[name] = lane
        return lane.open

    async def _reach(self, name: str) -> None:
        """Open a lane on another node; if it cannot be reached, rest."""
        try:
            async with asyncio.timeout(REACH_SECONDS):
                self._lanes[name] = await self._reach_now(name)
            self._sort()
        except (ConnectionRefusedError, FileNotFoundError):
            self._clear(name)
        except (
            OSError,
            ValueError,
            msgspec.MsgspecError,
        ) as error:  # TLS, a node that is gone, a file that is none
            log.warning("lane %s cannot be reached: %s", name, error or type(error).__name__)
            await asyncio.sleep(REACH_SECONDS)
        finally:
            del self._reaching[name]

    async def _reach_now(self, name: str) -> Lane:
        if self._tls is None:
            raise ValueError("this process has no certificate")
        self._context = self._context or context(self._tls, server=False)
        there = read_far(self._folder / name)
        loop = asyncio.get_running_loop()
        found = socket.socket(socket.AF_INET6 if ":" in there.host else socket.AF_INET)
        try:
            found.setblocking(False)
            watch_over(found)
            await loop.sock_connect(found, (there.host, there.port))
            _, lane = await loop.create_connection(
                lambda: Lane(name, far=True), sock=found, ssl=self._context,
                server_hostname=there.host, ssl_handshake_timeout=REACH_SECONDS,
            )  # fmt: skip
        except BaseException:
            found.close()
            raise
        return lane
