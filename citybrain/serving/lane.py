"""A lane: a replica's own socket, which gateways send frames to.

A Ray Serve handle call costs about a millisecond of CPU on either side, whatever it carries; a
frame over a Unix socket costs a tenth of that. Serve still starts, watches, replaces and ends the
replica. The replica announces its lane once it is warm, by the socket's name in a folder that only
this user can enter, and withdraws it before it stops.

On the wire: four bytes of length (little-endian), then MessagePack of `Frame` or `Answer`. Nothing
is unpickled, and both ends ask the kernel who the other is.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import msgspec

from citybrain.core.errors import Unavailable
from citybrain.serving.wire import Call, Reply

log = logging.getLogger(__name__)

SUFFIX = ".lane"
MAX_FRAME_BYTES = 1 << 30
WITHDRAW_SECONDS = 15.0
GOODBYE = 0
"""The number of the frame that asks a gateway to send no more; frames count from 1."""


class Frame(msgspec.Struct, array_like=True):
    """Calls that travel together, and the number that their answer carries back."""

    number: int
    calls: list[Call]


class Answer(msgspec.Struct, array_like=True):
    """The replies to one frame, in its order."""

    number: int
    replies: list[Reply]


class FrameBroken(Exception):
    """The other end closed in the middle of a frame, or sent what is none."""


def pack(encoder: msgspec.msgpack.Encoder, message: Frame | Answer) -> bytearray:
    """A message behind its length."""
    buffer = bytearray(4)
    encoder.encode_into(message, buffer, 4)
    buffer[:4] = (len(buffer) - 4).to_bytes(4, "little")
    return buffer


def peer_is_this_user(connection: socket.socket) -> bool:
    """Whether the process at the other end runs as the same user (asked of the kernel)."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, user, _ = struct.unpack("3i", raw)
    return bool(user == os.getuid())


def private_folder(folder: Path) -> Path:
    """The folder of lanes, made if need be; Unavailable if somebody else can enter it."""
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise Unavailable(
            f"{folder} can be entered by others.",
            hint="Remove it; it is made again with mode 0700.",
        )
    return folder


@lru_cache(maxsize=1024)
def prefix(app: str) -> str:
    """How the sockets of an application's replicas begin; names of sockets must be short."""
    return hashlib.sha256(app.encode()).hexdigest()[:16] + "-"


class LaneServer:
    """Answers frames on threads of the replica: one waits for gateways, one serves each."""

    def __init__(self, folder: Path, app: str, answer: Callable[[list[Call]], list[Reply]]) -> None:
        self._answer = answer
        self._path = private_folder(folder) / f"{prefix(app)}{secrets.token_hex(4)}{SUFFIX}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._connections: dict[socket.socket, threading.Lock] = {}
        self._lock = threading.Lock()

    def announce(self) -> None:
        """Take connections from now on."""
        hidden = self._path.with_suffix(".new")
        self._socket.bind(str(hidden))
        self._socket.listen(64)
        hidden.rename(self._path)  # a name that gateways see always answers
        threading.Thread(target=self._accept, name="lane", daemon=True).start()

    def withdraw(self, seconds: float = WITHDRAW_SECONDS) -> None:
        """Ask the gateways to send no more, and answer what they sent before that."""
        self._path.unlink(missing_ok=True)
        goodbye = pack(msgspec.msgpack.Encoder(), Answer(GOODBYE, []))
        with self._lock:
            connections = list(self._connections.items())
        for connection, writing in connections:
            with writing, contextlib.suppress(OSError):
                connection.sendall(goodbye)
        until = time.monotonic() + seconds
        while self._connections and time.monotonic() < until:
            time.sleep(0.02)  # each gateway hangs up when it has its last answer
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            if not peer_is_this_user(connection):
                connection.close()
                continue
            with self._lock:
                self._connections[connection] = threading.Lock()
            threading.Thread(
                target=self._serve, args=(connection,), name="lane-gateway", daemon=True
            ).start()

    def _serve(self, connection: socket.socket) -> None:
        encoder, decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(Frame)
        writing = self._connections[connection]
        try:
            with connection.makefile("rb", buffering=1 << 16) as reader:
                while head := reader.read(4):
                    length = int.from_bytes(head, "little")
                    if len(head) < 4 or length > MAX_FRAME_BYTES:
                        raise FrameBroken
                    body = reader.read(length)
                    if len(body) < length:
                        raise FrameBroken
                    frame = decoder.decode(body)
                    answer = pack(encoder, Answer(frame.number, self._answer(frame.calls)))
                    with writing:
                        connection.sendall(answer)
        except (OSError, FrameBroken):
            pass  # the gateway is gone; it repeats elsewhere what it was not answered
        except Exception:
            log.exception("a lane ends")
        finally:
            with self._lock:
                self._connections.pop(connection, None)
            connection.close()
