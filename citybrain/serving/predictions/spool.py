"""The gateway's side of the prediction log: sampled calls into a spool file, off the event loop.

A call that is not sampled costs a hash. A sampled one is put into a bounded buffer; a thread takes it from
there, and nothing that goes wrong here reaches a caller: what cannot be kept is counted and logged.
What may not lie on a disk (a private algorithm's bodies, pictures, sounds) is turned into its digests
before it is written.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import struct
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from citybrain.core.levels import Level
from citybrain.core.settings import PredictionSettings
from citybrain.serving.gateway.directory import Directory
from citybrain.serving.gateway.snapshot import Route
from citybrain.serving.predictions.contents import Contents, contents
from citybrain.serving.wire import Call, Reply
from citybrain.storage.journal import Settled

log = logging.getLogger(__name__)

OPEN, FULL = ".open", ".calls"
FLUSH_SECONDS = 0.2
MOST_CALLS = 4096
MOST_BUFFERED = 32 << 20
MOST_SPOOLED = 256 << 20
"""Bytes of all spool files; beyond them the control process is down, and calls are lost."""
FILE_BYTES = 8 << 20
FILE_CALLS = 10_000
BODY_BYTES = 1 << 20
"""A longer body is digested here: no more than its digest would be kept anyway."""


class Origin(msgspec.Struct, array_like=True, tag="origin"):
    """Where calls that follow in the file came to; `number` is how they name it."""

    number: int
    target: str
    version: int
    manifest: str


class Sampled(msgspec.Struct, array_like=True, tag="call"):
    """One call: its bytes, or what was made of them already."""

    origin: int
    settled: Settled
    rate: float
    code: str
    call: Call | None = None
    reply: Reply | None = None
    made: Contents | None = None


class _Taken(NamedTuple):
    settled: Settled
    route: Route
    call: Call
    reply: Reply
    rate: float


class PredictionSpool:
    """What one gateway samples."""

    def __init__(self, folder: Path, secret: bytes, settings: PredictionSettings) -> None:
        self._folder = folder
        self._secret = secret
        self._rate = settings.rate
        self._seconds = settings.seconds
        self._most = min(MOST_SPOOLED, settings.max_bytes)
        self._buffer: deque[_Taken] = deque()
        self._buffered = 0
        self._encoder = msgspec.msgpack.Encoder()
        self._file = -1
        self._path = folder
        self._stop = threading.Event()
        self._told = -60.0
        self.lost = 0
        """Sampled calls that were not kept, since the start."""

    def sampler(self, directory: Directory) -> Callable[[Settled, Route, Call, Reply], None]:
        """What a gateway tells of every settled call: the sampled ones are taken."""

        def sample(settled: Settled, route: Route, call: Call, reply: Reply) -> None:
            rates = directory.snapshot.rates
            if rate := self.rate(rates, settled.algorithm, settled.request_id):
                self.take(settled, route, call, reply, rate)

        return sample

    def rate(self, rates: Mapping[str, float], algorithm: str, request_id: str) -> float:
        """The rate that this call was drawn by; 0: it is not sampled."""
        rate = rates.get(algorithm, self._rate)
        # Every call pays for this, so it is no cryptographic hash as for splits; the product spreads
        # checksums, of which those of calls that follow one another are alike.
        lot = zlib.crc32(request_id.encode()) * 0x9E3779B1 & 0xFFFFFFFF
        return rate if lot < rate * 2**32 else 0.0

    def take(self, settled: Settled, route: Route, call: Call, reply: Reply, rate: float) -> None:
        """Put a call into the buffer; nothing waits."""
        size = len(call.body) + len(reply.body)
        if len(self._buffer) >= MOST_CALLS or self._buffered + size > MOST_BUFFERED:
            self.lost += 1
            return
        self._buffered += size
        self._buffer.append(_Taken(settled, route, call, reply, rate))

    def start(self) -> None:
        """Begin to write."""
        self._thread = threading.Thread(target=self._run, name="predictions", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is buffered and let go of the file."""
        self._stop.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        while True:
            ended = self._stop.wait(FLUSH_SECONDS)
            before = self.lost
            try:
                self.write()
                if ended or self._is_due():
                    self._finish()
            except Exception:  # whatever it is, callers do not feel it; the next turn tries again
                self._complain("sampled calls could not be written", error=True)
            if self.lost > before:
                self._complain("sampled calls were lost: full buffer, spool or disk")
            if ended:
                return

    def _complain(self, what: str, *, error: bool = False) -> None:
        if time.monotonic() - self._told > 60:
            self._told = time.monotonic()
            log.warning("%s (%d since the start)", what, self.lost, exc_info=error)

    def write(self) -> None:
        """Append what is buffered, in one write; all of it is lost if the disk does not take it."""
        taken = []
        while self._buffer:
            one = self._buffer.popleft()
            self._buffered -= len(one.call.body) + len(one.reply.body)
            taken.append(one)
        if not taken:
            return
        try:
            if self._file < 0:
                self._open()
            data = b"".join(self._frames(taken))
            written = os.write(self._file, data)
            if written != len(data):
                os.ftruncate(self._file, self._size)
                raise OSError(28, "the spool could not be written whole")
        except BaseException:
            self.lost += len(taken)
            self._finish()  # the next file tells its origins anew
            raise
        self._size += written
        self._calls += len(taken)

    def _frames(self, taken: list[_Taken]) -> Iterator[bytes]:
        for one in taken:
            number = self._origins.get(one.route)
            if number is None:
                number = self._origins[one.route] = len(self._origins)
                manifest = one.route.manifest.model_dump_json()
                yield self._frame(Origin(number, one.route.target, one.route.version, manifest))
            yield self._frame(self._sampled(number, one))

    def _sampled(self, number: int, one: _Taken) -> Sampled:
        _, route, call, reply, _ = one
        level = route.manifest.level
        private = level >= Level.SENSITIVE or route.task.media
        if private or max(len(call.body), len(reply.body)) > BODY_BYTES:
            made = contents(call, reply, route.task, level, self._secret)
            return Sampled(number, one.settled, one.rate, reply.code, made=made)
        return Sampled(number, one.settled, one.rate, reply.code, call, reply)

    def _frame(self, told: Origin | Sampled) -> bytes:
        raw = self._encoder.encode(told)
        return struct.pack("<I", len(raw)) + raw

    def _is_due(self) -> bool:
        return self._file >= 0 and (
            self._size > FILE_BYTES
            or self._calls >= FILE_CALLS
            or time.monotonic() - self._since > self._seconds
        )

    def _open(self) -> None:
        if _size(self._folder) > self._most:
            raise OSError(28, "the spool is full: the control process does not empty it")
        name = f"{time.time_ns()}-{secrets.token_hex(4)}"
        fresh = self._folder / f"{name}.new"
        self._file = os.open(fresh, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        # As journals are: locked before anybody sees it, so that a killed gateway's file is known.
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._path = fresh.rename(self._folder / f"{name}{OPEN}")
        self._origins: dict[Route, int] = {}
        self._size = self._calls = 0
        self._since = time.monotonic()

    def _finish(self) -> None:
        if self._file >= 0:
            file, self._file = self._file, -1
            self._path.rename(self._path.with_suffix(FULL))
            os.close(file)


def _size(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # the control process just emptied it
            size += path.stat().st_size
    return size


def frames(path: Path) -> Iterator[Origin | Sampled]:
    """What a spool file holds; what a kill or a full disk cut off at its end is left out."""
    decoder = msgspec.msgpack.Decoder(Origin | Sampled)
    with path.open("rb") as file:
        while len(head := file.read(4)) == 4:
            raw = file.read(length := struct.unpack("<I", head)[0])
            if len(raw) < length:
                return
            try:
                yield decoder.decode(raw)
            except msgspec.MsgspecError:
                return
