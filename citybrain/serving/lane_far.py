"""The lane of a replica on another node than the gateways': TCP, with TLS and certificates both ways.

Its address goes onto a board that Ray keeps for all nodes. The control process reads it there and
puts it into the folder of lanes, as a file where other lanes are sockets, and what the replica says of
itself beside it. So gateways and whoever else looks into that folder need to know nothing of boards, and
Ray's workers need no way into the platform's files or database.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Protocol

import msgspec

from citybrain.core.settings import TlsFiles
from citybrain.serving.lane_doors import BACKLOG, lane_name, private_folder
from citybrain.serving.lane_messages import Connection
from citybrain.serving.lane_tls import TlsConnection, context, watch_over
from citybrain.serving.notes import SUFFIX, write_note

NAME = re.compile(rf"[0-9a-f]{{16}}-[0-9a-f]{{8}}{re.escape(SUFFIX)}")


class FarLane(msgspec.Struct, frozen=True):
    """Where a lane is."""

    host: str
    port: int
    node: str
    """Ray's name for the node."""
    note: str = ""


class Board(Protocol):
    """What all nodes can read and write: lanes by name."""

    def put(self, name: str, lane: FarLane) -> None:
        """Announce it, or say something else of it."""

    def drop(self, name: str) -> None:
        """It is there no more."""

    def all(self) -> dict[str, FarLane]:
        """Those of nodes that live."""


class TcpDoor:
    """Whoever shows a certificate of the platform's own authority may come in."""

    def __init__(self, board: Board, app: str, host: str, node: str, files: TlsFiles) -> None:
        self._board = board
        self._host, self._node = host, node
        self._context = context(files, server=True)
        self.name = lane_name(app)
        self._lane = FarLane(host, 0, node)

    def announce(self) -> socket.socket:
        """Listen on the node's own address alone: loopback, if that is what Ray uses."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        found = socket.create_server((self._host, 0), family=family, backlog=BACKLOG)
        self._lane = FarLane(self._host, found.getsockname()[1], self._node)
        self._board.put(self.name, self._lane)
        return found

    def admit(self, connection: socket.socket) -> Connection:
        """Have both ends show their certificates."""
        watch_over(connection)
        found = TlsConnection(connection, self._context)
        found.shake_hands()
        return found

    def say(self, text: str) -> None:
        """On the board; the control process puts it beside the lane."""
        if text != self._lane.note:
            self._lane = msgspec.structs.replace(self._lane, note=text)
            self._board.put(self.name, self._lane)

    def withdraw(self) -> None:
        """Take it off the board; gateways that hold it open are told by the lane itself."""
        self._board.drop(self.name)


def read_far(path: Path) -> FarLane:
    """What this file says; OSError or MsgspecError if it is none."""
    return msgspec.json.decode(path.read_bytes(), type=FarLane)


class FarLanes:
    """The control process's part: the folder says what the board says."""

    def __init__(self, board: Board, folder: Path) -> None:
        self._board = board
        self._folder = folder
        self._shown: dict[str, FarLane] = {}

    def look(self) -> None:
        """Show what is new, and remove what is gone.

        A gateway that finds nobody at a lane removes it from the folder; then it goes off the board.
        """
        found = {n: lane for n, lane in self._board.all().items() if NAME.fullmatch(n)}
        there = {e.name for e in self._folder.glob(f"*{SUFFIX}") if e.is_file()}
        for name, lane in found.items():
            if name in self._shown and name not in there:
                self._board.drop(name)
                del self._shown[name]
            elif self._shown.get(name) != lane:
                self._show(name, lane)
        for name in (self._shown.keys() | there) - found.keys():
            (self._folder / name).unlink(missing_ok=True)
            self._shown.pop(name, None)

    def _show(self, name: str, lane: FarLane) -> None:
        path = private_folder(self._folder) / name
        hidden = path.with_suffix(".far-new")
        hidden.write_bytes(msgspec.json.encode(lane))
        hidden.replace(path)
        write_note(path, lane.note)
        self._shown[name] = lane
