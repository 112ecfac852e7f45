"""The gateway's end of the lanes: found by their names in a folder, kept open, the idlest first."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from pathlib import Path
from typing import cast

import msgspec

from citybrain.serving.lane import SUFFIX, peer_is_this_user, prefix, private_folder
from citybrain.serving.lane_messages import (
    MAX_MESSAGE_BYTES,
    Answer,
    Begun,
    Cancel,
    Frame,
    Goodbye,
    ToGateway,
    pack,
)
from citybrain.serving.wire import Call, Departure, FrameLost, Served

log = logging.getLogger(__name__)
LOOK_SECONDS = 0.2


class Away(asyncio.Future[Served]):
    """The answer to a frame that is away.

    Like a task's, its `cancel` is a request: the replica is told, and this ends when the replica has
    let the frame go. A second `cancel` ends it at once.
    """

    def __init__(self, lane: Lane, number: int) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self._lane = lane
        self._number = number
        self._given_up = False
        self.begun = False

    def cancel(self, msg: object = None) -> bool:
        """Ask for the frame back; whether it was away."""
        if self.done():
            return False
        if self._given_up:
            return super().cancel(msg)
        self._given_up = True
        self._lane.ask_back(self._number)
        return True

    def land(self, served: Served) -> None:
        """The replica is done with it."""
        if self._given_up:
            super().cancel()
        elif not self.done():
            self.set_result(served)

    def lose(self, reason: str) -> None:
        """The replica is gone, and the frame with it."""
        if self._given_up:
            super().cancel()
        elif not self.done():
            self.set_exception(FrameLost(reason, begun=self.begun))


class Lane(asyncio.Protocol):
    """One connection to one replica."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.open = False
        self._transport: asyncio.Transport | None = None
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(ToGateway)
        self._buffer = bytearray()
        self._number = 0
        self._held = 0
        self._away: dict[int, Away] = {}

    @property
    def load(self) -> int:
        """Frames that are away."""
        return len(self._away)

    @property
    def gone(self) -> bool:
        """Whether it is hung up."""
        return self._transport is None or self._transport.is_closing()

    def hold(self, by: int) -> None:
        """So many more, or fewer, answers in parts are not ended, and need it until they are."""
        self._held += by
        if not self.open:
            self.close()

    def send(self, calls: list[Call], *, again: bool = False) -> Away:
        """Send a frame; the future holds its replies, or FrameLost.

        `again`: it was lost before. Then FrameLost knows whether the work on it had begun.
        """
        self._number += 1
        away = self._away[self._number] = Away(self, self._number)
        self._write(Frame(self._number, calls, Departure(time.perf_counter()), again))
        return away

    def ask_back(self, number: int) -> None:
        """Nobody waits for this frame any more."""
        if not self.gone:
            self._write(Cancel(number))

    def close(self) -> None:
        """Begin nothing more; hang up as soon as nothing is away."""
        self.open = False
        if not self._away and not self._held:
            self.abort()

    def abort(self) -> None:
        """Hang up."""
        self.open = False
        if self._transport is not None:
            self._transport.abort()

    def _write(self, message: Frame | Cancel) -> None:
        assert self._transport is not None
        self._transport.write(pack(self._encoder, message))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Use the lane only if this user runs the replica."""
        transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it
        self._transport = transport
        self.open = peer_is_this_user(transport.get_extra_info("socket"))
        if not self.open:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Hand out every whole message."""
        buffer = self._buffer
        buffer += data
        begin = 0
        while len(buffer) - begin >= 4:
            end = begin + 4 + int.from_bytes(buffer[begin : begin + 4], "little")
            if end - begin > MAX_MESSAGE_BYTES:
                self._mistrust("an answer without end")
                return
            if len(buffer) < end:
                break
            try:
                message = self._decoder.decode(memoryview(buffer)[begin + 4 : end])
            except msgspec.MsgspecError:
                self._mistrust("an answer that is none")
                return
            begin = end
            self._take(message)
        if begin:
            del buffer[:begin]

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everyone who waits."""
        self.open = False
        if exc is not None:
            self._read_the_rest()
        lost, self._away = self._away, {}
        for away in lost.values():
            away.lose(str(exc or "closed"))

    def _read_the_rest(self) -> None:
        """What a replica said before it ended counts, also where writing to it failed first."""
        assert self._transport is not None
        socket = self._transport.get_extra_info("socket").fileno()
        with contextlib.suppress(OSError):
            while data := os.read(socket, 1 << 16):
                self.data_received(data)

    def _take(self, message: Answer | Begun | Goodbye) -> None:
        if isinstance(message, Answer):
            if away := self._away.pop(message.number, None):
                away.land(
                    Served(message.replies, message.waited, message.worked, message.modelled, self)
                )
        elif isinstance(message, Begun):
            if away := self._away.get(message.number):
                away.begun = True
        else:
            self.open = False
        if not self.open:
            self.close()

    def _mistrust(self, reason: str) -> None:
        log.error("%s sent %s", self.name, reason)
        self.abort()


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
            for lane in self._lanes.values():
                lane.abort()

    async def look(self) -> None:
        """Open what is announced now, and forget what is gone."""
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
