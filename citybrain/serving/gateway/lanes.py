"""The gateway's end of the lanes: found by their names in a folder, kept open, the idlest first."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from pathlib import Path
from typing import cast

import msgspec

from citybrain.serving.lane import (
    GOODBYE,
    MAX_FRAME_BYTES,
    SUFFIX,
    Answer,
    Frame,
    pack,
    peer_is_this_user,
    prefix,
    private_folder,
)
from citybrain.serving.wire import Call, Reply

log = logging.getLogger(__name__)
LOOK_SECONDS = 0.2


class LaneBroken(Exception):
    """The lane ended before its answer; the frame may go elsewhere, since inference only reads."""


class Lane(asyncio.Protocol):
    """One connection to one replica."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.open = False
        self._transport: asyncio.Transport | None = None
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Answer)
        self._buffer = bytearray()
        self._number = GOODBYE
        self._waiting: dict[int, asyncio.Future[list[Reply]]] = {}

    @property
    def load(self) -> int:
        """Frames that are away."""
        return len(self._waiting)

    def send(self, calls: list[Call]) -> asyncio.Future[list[Reply]]:
        """Send a frame; the future holds its replies, or LaneBroken."""
        assert self._transport is not None
        self._number += 1
        future: asyncio.Future[list[Reply]] = asyncio.get_running_loop().create_future()
        self._waiting[self._number] = future
        self._transport.write(pack(self._encoder, Frame(self._number, calls)))
        return future

    def close(self) -> None:
        """Send nothing more; hang up as soon as nothing is away."""
        self.open = False
        if not self._waiting and self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Use the lane only if this user runs the replica."""
        transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it
        self._transport = transport
        self.open = peer_is_this_user(transport.get_extra_info("socket"))
        if not self.open:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Hand out every whole answer."""
        buffer = self._buffer
        buffer += data
        begin = 0
        while len(buffer) - begin >= 4:
            end = begin + 4 + int.from_bytes(buffer[begin : begin + 4], "little")
            if end - begin > MAX_FRAME_BYTES:
                self._abort("an answer without end")
                return
            if len(buffer) < end:
                break
            try:
                answer = self._decoder.decode(memoryview(buffer)[begin + 4 : end])
            except msgspec.MsgspecError:
                self._abort("an answer that is none")
                return
            begin = end
            self._take(answer)
        if begin:
            del buffer[:begin]

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everyone who waits."""
        self.open = False
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(LaneBroken(str(exc or "closed")))

    def _take(self, answer: Answer) -> None:
        if answer.number == GOODBYE:
            self.open = False
        elif (future := self._waiting.pop(answer.number, None)) and not future.done():
            future.set_result(answer.replies)
        if not self.open:
            self.close()

    def _abort(self, reason: str) -> None:
        log.error("%s sent %s", self.name, reason)
        if self._transport is not None:
            self._transport.abort()


class Lanes:
    """Every lane that this gateway holds open, by application."""

    def __init__(self, folder: Path) -> None:
        self._folder = private_folder(folder)
        self._lanes: dict[str, Lane] = {}
        self._by_prefix: dict[str, list[Lane]] = {}

    def idlest(self, app: str) -> Lane | None:
        """The open lane of an application with the fewest frames away."""
        best = None
        for lane in self._by_prefix.get(prefix(app), ()):
            if lane.open and (best is None or lane.load < best.load):
                best = lane
        return best

    async def keep(self) -> None:
        """Open what is announced and forget what is gone, until cancelled."""
        try:
            while True:
                try:
                    await self._look()
                except Exception:  # frames go by handle meanwhile; the next look may succeed
                    log.exception("the lanes could not be looked at")
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            for lane in self._lanes.values():
                lane.close()

    async def _look(self) -> None:
        names = {entry.name for entry in os.scandir(self._folder) if entry.name.endswith(SUFFIX)}
        gone = [name for name, lane in self._lanes.items() if not lane.open]
        for name in gone:
            del self._lanes[name]
        opened = [await self._connect(name) for name in names - self._lanes.keys()]
        if gone or any(opened):
            self._by_prefix = {}
            for name, lane in self._lanes.items():
                self._by_prefix.setdefault(name[: len(prefix(""))], []).append(lane)

    async def _connect(self, name: str) -> bool:
        path = self._folder / name
        try:
            _, lane = await asyncio.get_running_loop().create_unix_connection(
                lambda: Lane(name), str(path)
            )
        except ConnectionRefusedError:  # its replica was killed and could not withdraw it
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            return False
        except OSError:  # withdrawn in this moment
            return False
        self._lanes[name] = lane
        return lane.open
