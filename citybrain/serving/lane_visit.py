"""A gateway's connection to a lane, at the replica's end."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, cast

import msgspec

from citybrain.serving.errand import Errand, given_up
from citybrain.serving.lane_messages import (
    BUFFER_BYTES,
    Answer,
    Begun,
    Cancel,
    Connection,
    Frame,
    Inbox,
    LargeFrame,
    Message,
    NoMessage,
    ToReplica,
    pack,
)
from citybrain.serving.scaling import Load
from citybrain.serving.wire import Call, Served, by_our_clock

log = logging.getLogger(__name__)

Answers = Callable[[list[Call], Errand], Served]
BROKEN = (OSError, EOFError, NoMessage, msgspec.MsgspecError)


class Held(NamedTuple):
    """A frame that waits here, or is worked on."""

    number: int
    calls: list[Call]
    errand: Errand


class Visit:
    """One connection: a thread of its own reads a frame, answers it, and reads the next.

    While a frame takes long, `look` reads what comes meanwhile.
    """

    def __init__(
        self, connection: Connection, answer: Answers, load: Load, busy: Callable[[], None]
    ) -> None:
        self.busy_since = 0.0
        """When the work on a frame began; 0.0 while there is none."""
        self._connection = connection
        self._answer = answer
        self._load = load
        self._busy = busy
        self._inbox = Inbox(connection)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(ToReplica)
        self._decoder_in_place = msgspec.msgpack.Decoder(LargeFrame)
        self._reading, self._writing = threading.Lock(), threading.Lock()
        self._running: Held | None = None
        self._waiting: deque[Held] = deque()
        """What was read while another was worked on; changed by who holds `_reading`."""

    def serve(self) -> None:
        """Answer frames until the gateway hangs up."""
        try:
            while True:
                self._work(self._next())
        except BROKEN:
            pass  # the gateway is gone; it repeats elsewhere what it was not answered
        except Exception:
            log.exception("a lane ends")
        finally:
            self._connection.close()
            with self._reading:
                self._load.change(-len(self._waiting))
                self._waiting.clear()

    def look(self) -> None:
        """Read what has come, without waiting for more; called while a frame takes long."""
        if not self._reading.acquire(blocking=False):
            return  # the work is done, and the next frame is being read
        try:
            self._read_all()
        except BROKEN:  # the gateway is gone; who reads next meets the same
            if (running := self._running) is not None:
                running.errand.ask()
        finally:
            self._reading.release()

    def send(self, message: Message) -> None:
        """Write one message, from any thread."""
        data = pack(self._encoder, message)
        with self._writing:
            self._connection.sendall(data)

    def _next(self) -> Held:
        free = time.perf_counter()
        with self._reading:
            if self._waiting:
                self._read_all()  # the first of them may be cancelled by now
            while not self._waiting:
                data = self._inbox.next(wait=True)
                assert data is not None
                self._take(data, free)
            return self._waiting.popleft()

    def _read_all(self) -> None:
        while (data := self._inbox.next(wait=False)) is not None:
            self._take(data, self.busy_since)

    def _take(self, data: memoryview, free: float) -> None:
        """A message; `free`: since when it could have been worked on."""
        message: Frame | LargeFrame | Cancel
        if len(data) > BUFFER_BYTES:
            message = self._decoder_in_place.decode(data.toreadonly())
        else:
            message = self._decoder.decode(data)
        if isinstance(message, Cancel):
            self._cancel(message.number)
            return
        now, left, number = time.perf_counter(), message.left, message.number
        arrived = left.moment if left.ours and left.moment < free else now
        calls = by_our_clock(cast(list[Call], message.calls), left, now)
        begun = (lambda: self.send(Begun(number))) if message.again else None
        self._waiting.append(Held(number, calls, Errand(arrived, begun)))
        self._load.change(1)

    def _cancel(self, number: int) -> None:
        running = self._running
        if running is not None and running.number == number:
            running.errand.ask()
        for held in self._waiting:
            if held.number == number:
                self._waiting.remove(held)
                self._load.change(-1)
                self.send(Answer(number, given_up(len(held.calls))))
                return

    def _work(self, held: Held) -> None:
        self._running, self.busy_since = held, time.perf_counter()
        self._busy()
        try:
            served = self._answer(held.calls, held.errand)
        finally:
            self._running, self.busy_since = None, 0.0
            self._load.change(-1)
        self.send(
            Answer(held.number, served.replies, served.waited, served.worked, served.modelled)
        )
