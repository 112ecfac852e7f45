"""The usage journal: one append-only file a gateway, written before an answer leaves.

A call leaves two lines, JSON arrays: `["A", …]` when it was admitted and `["S", …]` when it was
settled. One `write()` carries all lines of one turn of the event loop; what was written survives
a kill of the process, and an fsync on a short timer bounds what a power loss can take. The loader
in the control process folds the lines into the ledger, once each, by request id.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

ROTATE_BYTES = 64 << 20
SUFFIX = ".journal"


class Admitted(NamedTuple):
    """A call that passed the door."""

    request_id: str
    at_ms: int
    key: str
    department: str
    algorithm: str
    purpose: str
    door: str


class Settled(NamedTuple):
    """The same call, answered (`status` 200) or failed."""

    request_id: str
    at_ms: int
    key: str
    department: str
    algorithm: str
    purpose: str
    door: str
    version: int
    status: int
    rows: int
    micros: int


class JournalWriter:
    """Appends to a file of its own; `flush` returns when the kernel has the lines."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lines: list[bytes] = []
        self._dirty = False
        self._open()

    def admit(self, record: Admitted) -> None:
        """Queue a line; `flush` writes it."""
        self._lines.append(orjson.dumps(("A", *record)))

    def settle(self, record: Settled) -> None:
        """Queue a line; the answer may leave after `flush`."""
        self._lines.append(orjson.dumps(("S", *record)))

    def flush(self) -> None:
        """Hand the queued lines to the kernel, all in one write; OSError if it takes not all."""
        if not self._lines:
            return
        data = b"\n".join(self._lines) + b"\n"
        written = os.write(self._file, data)
        if written != len(data):  # a full disk; take the torn part back, keep the lines
            os.ftruncate(self._file, self._size)
            raise OSError(28, "the journal could not be written whole")
        self._lines.clear()
        self._size += written
        self._dirty = True

    @property
    def unsynced(self) -> int | None:
        """The file descriptor that an fsync is due for, if one is."""
        return self._file if self._dirty else None

    def synced(self) -> None:
        """After that fsync: start a new file when this one is long."""
        self._dirty = False
        if self._size > ROTATE_BYTES:
            self.close()
            self._open()

    def close(self) -> None:
        """Write what is queued and let go of the file, so that the loader may finish it."""
        self.flush()
        os.fsync(self._file)
        os.close(self._file)

    def _open(self) -> None:
        name = f"{time.time_ns()}-{secrets.token_hex(4)}"
        fresh = self._folder / f"{name}.new"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
        self._file = os.open(fresh, flags, 0o600)
        # Locked before the loader can see it, held while the writer lives; the kernel frees it.
        fcntl.flock(self._file, fcntl.LOCK_EX)
        fresh.rename(self._folder / f"{name}{SUFFIX}")
        self._size = 0


def read_from(
    path: Path, offset: int, *, kind: str = "", limit: int = 4 << 20
) -> tuple[list[list[Any]], int]:
    """Whole lines (of one kind) after an offset, and the offset behind all of them.

    A torn last line is left for the next time.
    """
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(limit)
    end = data.rfind(b"\n") + 1
    begins = f'["{kind}'.encode()
    lines = [line for line in data[:end].splitlines() if line.startswith(begins)]
    try:
        return orjson.loads(b"[" + b",".join(lines) + b"]"), offset + end
    except orjson.JSONDecodeError:  # a line torn by a power loss; its answer never left
        return list(_readable(lines)), offset + end


def _readable(lines: list[bytes]) -> Iterator[list[Any]]:
    for line in lines:
        with contextlib.suppress(orjson.JSONDecodeError):
            yield orjson.loads(line)


def is_finished(path: Path) -> bool:
    """Whether the writer is gone: its lock is free."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


def journals(folder: Path) -> Iterator[Path]:
    """All journal files, oldest first."""
    yield from sorted(folder.glob(f"*{SUFFIX}"))
