"""Where a replica's lane is found, and who may enter: a Unix socket for gateways of the same node.

A socket lies in a folder that only this user can enter, and its name says whose it is. `lane_far.py`
has the door for gateways of other nodes.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
import struct
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from citybrain.core.errors import Unavailable
from citybrain.core.home import is_private
from citybrain.core.sockets import address_of
from citybrain.serving.lane_messages import Connection
from citybrain.serving.notes import SUFFIX, write_note

BACKLOG = 64


class LaneDoor(Protocol):
    """What differs between lanes; `lane.py` has what they share."""

    def announce(self) -> socket.socket:
        """Listen, and let gateways know; called once, when the replica is warm."""

    def admit(self, connection: socket.socket) -> Connection:
        """What frames go over, or OSError for a stranger; called on a thread of the connection's."""

    def say(self, text: str) -> None:
        """Tell the control process what this replica lacks; an empty text: nothing."""

    def withdraw(self) -> None:
        """Let gateways find it no more; those that have come stay."""


class UnixDoor:
    """Gateways find the socket by its name, and the kernel says who is at the other end."""

    def __init__(self, folder: Path, app: str) -> None:
        self.path = private_folder(folder) / lane_name(app)

    def announce(self) -> socket.socket:
        """Listen under the name that gateways look for."""
        found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        hidden = self.path.with_suffix(".new")
        with address_of(hidden) as address:
            found.bind(address)
        found.listen(BACKLOG)
        hidden.rename(self.path)  # a name that gateways see always answers
        return found

    def admit(self, connection: socket.socket) -> Connection:
        """Only this user's processes."""
        if not peer_is_this_user(connection):
            raise PermissionError("another user")
        return connection

    def say(self, text: str) -> None:
        """Beside the socket."""
        write_note(self.path, text)

    def withdraw(self) -> None:
        """Remove the name."""
        self.path.unlink(missing_ok=True)


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
    """How the lanes of an application's replicas begin; names of sockets must be short."""
    return hashlib.sha256(app.encode()).hexdigest()[:16] + "-"


def lane_name(app: str) -> str:
    """A name for one more lane of an application."""
    return f"{prefix(app)}{secrets.token_hex(4)}{SUFFIX}"
