"""A lane: a replica's own socket, which gateways send frames to.

A Ray Serve handle call costs about a millisecond of CPU on either side, whatever it carries; a
frame over a Unix socket costs a tenth of that. Serve still starts, watches, replaces and ends the
replica. The replica announces its lane once it is warm, by the socket's name in a folder that only
this user can enter, and withdraws it before it stops.

On the wire: four bytes of length (little-endian), then MessagePack of one of the messages below.
Nothing is unpickled, and both ends ask the kernel who the other is.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import socket
import struct
import threading
import time
from functools import lru_cache
from pathlib import Path

from citybrain.core.errors import Unavailable
from citybrain.core.home import is_private
from citybrain.serving.lane_messages import Goodbye
from citybrain.serving.lane_visit import Answers, Visit
from citybrain.serving.scaling import Load

log = logging.getLogger(__name__)

SUFFIX = ".lane"
WITHDRAW_SECONDS = 15.0
LOOK_SECONDS = 0.01
"""What comes while a frame is worked on is read so much later at most."""
CALM_SECONDS = 1.0


def peer_is_this_user(connection: socket.socket) -> bool:
    """Whether the process at the other end runs as the same user (asked of the kernel)."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, user, _ = struct.unpack("3i", raw)
    return bool(user == os.getuid())


def private_folder(folder: Path) -> Path:
    """The folder of lanes, made if need be; Unavailable if somebody else can enter it."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if not is_private(folder):
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
    """Answers frames on threads of the replica: one waits for gateways, one serves each.

    One more looks at those that are busy for long.
    """

    def __init__(self, folder: Path, app: str, answer: Answers) -> None:
        self.load = Load()
        self._answer = answer
        self.path = private_folder(folder) / f"{prefix(app)}{secrets.token_hex(4)}{SUFFIX}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._visits: set[Visit] = set()
        self._lock = threading.Lock()
        self._awake = threading.Event()

    def announce(self) -> None:
        """Take connections from now on."""
        hidden = self.path.with_suffix(".new")
        self._socket.bind(str(hidden))
        self._socket.listen(64)
        hidden.rename(self.path)  # a name that gateways see always answers
        threading.Thread(target=self._accept, name="lane", daemon=True).start()
        threading.Thread(target=self._look, name="lane-look", daemon=True).start()

    def withdraw(self, seconds: float = WITHDRAW_SECONDS) -> None:
        """Ask the gateways to send no more, and answer what they sent before that."""
        self.path.unlink(missing_ok=True)
        for visit in self._all():
            with contextlib.suppress(OSError):
                visit.send(Goodbye())
        until = time.monotonic() + seconds
        while self._visits and time.monotonic() < until:
            time.sleep(0.02)  # each gateway hangs up when it has its last answer
        self._socket.close()

    def _all(self) -> list[Visit]:
        with self._lock:
            return list(self._visits)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            if not peer_is_this_user(connection):
                connection.close()
                continue
            threading.Thread(
                target=self._serve, args=(connection,), name="lane-gateway", daemon=True
            ).start()

    def _serve(self, connection: socket.socket) -> None:
        visit = Visit(connection, self._answer, self.load, self._busy)
        with self._lock:
            self._visits.add(visit)
        try:
            visit.serve()
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
