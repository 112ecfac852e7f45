"""A lane: a replica's own socket, which gateways send frames to.

A Ray Serve handle call costs about a millisecond of CPU on either side, whatever it carries; a
frame over a Unix socket costs a tenth of that. Serve still starts, watches, replaces and ends the
replica. The replica announces its lane once it is warm, and withdraws it before it stops: how, and who
may come in, its door knows (lane_doors.py, lane_far.py).

On the wire: four bytes of length (little-endian), then MessagePack of one of `lane_messages.py`.
Nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time

from citybrain.serving.lane_doors import LaneDoor
from citybrain.serving.lane_messages import Goodbye
from citybrain.serving.lane_visit import Answers, Visit
from citybrain.serving.scaling import Load

WITHDRAW_SECONDS = 15.0
LOOK_SECONDS = 0.01
"""What comes while a frame is worked on is read so much later at most."""
CALM_SECONDS = 1.0
MOST_STRANGERS = 32
"""Connections that have not shown yet who they are; one more is closed."""


class LaneServer:
    """Answers frames on threads of the replica: one waits for gateways, one serves each.

    One more looks at those that are busy for long.
    """

    def __init__(self, door: LaneDoor, answer: Answers) -> None:
        self.load = Load()
        self.door = door
        self._answer = answer
        self._socket: socket.socket | None = None
        self._visits: set[Visit] = set()
        self._leaving = False
        self._lock = threading.Lock()
        self._strangers = threading.BoundedSemaphore(MOST_STRANGERS)
        self._awake = threading.Event()

    def announce(self) -> None:
        """Take connections from now on."""
        self._socket = self.door.announce()
        threading.Thread(
            target=self._accept, args=(self._socket,), name="lane", daemon=True
        ).start()
        threading.Thread(target=self._look, name="lane-look", daemon=True).start()

    def withdraw(self, seconds: float = WITHDRAW_SECONDS) -> None:
        """Ask the gateways to send no more, and answer what they sent before that."""
        self.door.withdraw()
        with self._lock:
            self._leaving = True
        for visit in self._all():
            with contextlib.suppress(OSError):
                visit.send(Goodbye())
        until = time.monotonic() + seconds
        while self._visits and time.monotonic() < until:
            time.sleep(0.02)  # each gateway hangs up when it has its last answer
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # or who waits for gateways keeps it open
            self._socket.close()

    def _all(self) -> list[Visit]:
        with self._lock:
            return list(self._visits)

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            if not self._strangers.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(
                target=self._serve, args=(connection,), name="lane-gateway", daemon=True
            ).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            admitted = self.door.admit(connection)
        except OSError:
            connection.close()
            return
        finally:
            self._strangers.release()
        visit = Visit(admitted, self._answer, self.load, self._busy)
        with self._lock:
            self._visits.add(visit)
            leaving = self._leaving
        try:
            if leaving:  # it came in the moment of the goodbye
                visit.send(Goodbye())
            visit.serve()
        except OSError:
            connection.close()
        finally:
            with self._lock:
                self._visits.discard(visit)

    def _busy(self) -> None:
        """Called at the beginning of each frame: no more than a glance."""
        if not self._awake.is_set():
            self._awake.set()

    def _look(self) -> None:
        """Look at each visit that is busy for long; sleep while none was busy for a while."""
        seen = 0.0
        while True:
            self._awake.wait()
            time.sleep(LOOK_SECONDS)
            now = time.perf_counter()
            for visit in self._all():
                since = visit.busy_since
                if since:
                    seen = now
                    if now - since > LOOK_SECONDS:
                        visit.look()
            if now - seen > CALM_SECONDS:
                self._awake.clear()
                if any(visit.busy_since for visit in self._all()):
                    self._awake.set()
