"""What travels on a lane, and how it is written and read.

Four bytes of length (little-endian), then MessagePack: an array that begins with a number that says
which message it is.
"""

from __future__ import annotations

import socket
from typing import NamedTuple, Protocol

import msgspec
import numpy as np

from citybrain.serving.wire import Call, Departure, Reply

MAX_MESSAGE_BYTES = 1 << 30
BUFFER_BYTES = 1 << 16


class CallInPlace(NamedTuple):
    """A call whose body lies in the frame's own bytes: large ones are not copied.

    Field for field as `Call`, because both are read from the same arrays.
    """

    codec: str
    body: memoryview
    header_length: int
    content_type: str
    request_id: str
    deadline: float = 0.0
    most: tuple[int, float] | None = None
    parts: bool = False


class Frame(msgspec.Struct, array_like=True, tag=1):
    """To a replica: calls that travel together, and the number that their answer carries back."""

    number: int
    calls: list[Call]
    left: Departure
    again: bool = False
    """It was lost before: its gateway wants to know when the work on it begins."""


class LargeFrame(msgspec.Struct, array_like=True, tag=1):
    """How a replica reads a frame of many bytes."""

    number: int
    calls: list[CallInPlace]
    left: Departure
    again: bool = False


class Cancel(msgspec.Struct, array_like=True, tag=4):
    """To a replica: nobody waits for this frame any more. It is answered all the same."""

    number: int


class Answer(msgspec.Struct, array_like=True, tag=2):
    """To a gateway: the replies to one frame, in its order."""

    number: int
    replies: list[Reply]
    waited: float = 0.0
    worked: float = 0.0
    modelled: float = 0.0


class Begun(msgspec.Struct, array_like=True, tag=5):
    """To a gateway: the model works on this frame from now on."""

    number: int


class Goodbye(msgspec.Struct, array_like=True, tag=3):
    """To a gateway: send no more."""


ToReplica = Frame | Cancel
ToGateway = Answer | Begun | Goodbye
Message = ToReplica | ToGateway


class NoMessage(Exception):
    """The other end closed in the middle of a message, or sent what is none."""


def pack(encoder: msgspec.msgpack.Encoder, message: Message) -> bytearray:
    """A message behind its length."""
    buffer = bytearray(4)
    encoder.encode_into(message, buffer, 4)
    buffer[:4] = (len(buffer) - 4).to_bytes(4, "little")
    return buffer


class Connection(Protocol):
    """A stream socket, or what behaves like one: one thread reads while others write."""

    def recv_into(self, buffer: memoryview, nbytes: int = 0, flags: int = 0, /) -> int:
        """Read some bytes, 0 at the end; `MSG_DONTWAIT` as of a socket."""

    def sendall(self, data: bytearray, /) -> None:
        """Write all of it."""

    def close(self) -> None:
        """Hang up."""


class Inbox:
    """Takes whole messages out of a connection, for one thread at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._small = self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._begin = self._end = 0

    def next(self, *, wait: bool) -> memoryview | None:
        """The bytes of the next message; a small one's are good until this is called again.

        None where the caller does not `wait` and it is not all there; EOFError at the end.
        """
        while (found := self._whole()) is None:
            large = self._buffer is not self._small  # then it is as long as its message
            flags = (socket.MSG_WAITALL if large else 0) if wait else socket.MSG_DONTWAIT
            try:
                got = self._connection.recv_into(self._buffer[self._end :], 0, flags)
            except BlockingIOError:
                return None
            if not got:
                raise EOFError if self._begin == self._end else NoMessage
            self._end += got
        return found

    def _whole(self) -> memoryview | None:
        """The next message, if it is all there; else there is room for more of it afterwards."""
        begin, there = self._begin, self._end - self._begin
        size = 4
        if there >= 4:
            size += int.from_bytes(self._buffer[begin : begin + 4], "little")
            if size > MAX_MESSAGE_BYTES:
                raise NoMessage
            if there >= size:
                found = self._buffer[begin + 4 : begin + size]
                self._begin += size
                if self._buffer is not self._small:  # whoever has it keeps it
                    self._buffer, self._begin, self._end = self._small, 0, 0
                return found
        if not there:
            self._begin = self._end = 0
        elif begin + size > BUFFER_BYTES and self._buffer is self._small:
            if size > BUFFER_BYTES:
                self._buffer = np.empty(size, np.uint8).data
            self._buffer[:there] = bytes(self._small[begin : self._end])
            self._begin, self._end = 0, there
        return None
