"""The gateway's end of one lane: frames leave, and each answer finds the future that waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from typing import cast

import msgspec

from citybrain.serving.lane_doors import peer_is_this_user
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
from citybrain.serving.wire import Call, Departure, FrameLost, Served, node

log = logging.getLogger(__name__)


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

    def __init__(self, name: str, *, far: bool = False) -> None:
        self.name = name
        self.open = False
        self.left = False
        """Whether the replica said goodbye."""
        self._far = far
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
        left = Departure(time.perf_counter(), node() if self._far else "")
        self._write(Frame(self._number, calls, left, again))
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
        """Use the lane only if this user runs the replica; a far one has shown its certificate."""
        transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it
        self._transport = transport
        self.open = self._far or peer_is_this_user(transport.get_extra_info("socket"))
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
        """What a replica said before it ended counts, also where writing to it failed first.

        That of a far one cannot be deciphered any more.
        """
        assert self._transport is not None
        if self._far:
            return
        descriptor = self._transport.get_extra_info("socket").fileno()
        with contextlib.suppress(OSError):
            while data := os.read(descriptor, 1 << 16):
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
            self.open, self.left = False, True
        if not self.open:
            self.close()

    def _mistrust(self, reason: str) -> None:
        log.error("%s sent %s", self.name, reason)
        self.abort()
