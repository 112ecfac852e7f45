"""The usage journal: one append-only file a gateway, written before an answer leaves.

A call leaves two lines, JSON arrays: `["A", …]` when it was admitted and `["S", …]` when it was
settled; calls that were refused before that leave an `["R", …]` of many. One `write()` carries all lines of one turn of the event loop; what was written survives
a kill of the process, and an fsync on a short timer bounds what a power loss can take. The loader
in the control process folds the lines into the ledger, once each, by request id.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
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
    queue_micros: int = 0
    """Of these: before its frame left, and the replica's work on that frame."""
    work_micros: int = 0
    frame_calls: int = 1
    """How many calls shared the frame."""
    drawn: int = 0
    """The version that a split drew the call to; 0: none did."""
    drawn_status: int = 0
    """How the call did there: as above, unless another deployment answered instead."""
    drawn_micros: int = 0
    wait_micros: int = 0
    """In the replica, before its model was free; and of the work, what the model took."""
    model_micros: int = 0
    unit: str = ""
    """The task's own unit, and how much of it the call had."""
    amount: float = 0.0
    scenario: str = ""
    """That the grant is for."""

    @property
    def own_work(self) -> int:
        """The call's part of the frame's work, in microseconds."""
        return self.work_micros // (self.frame_calls or 1)


class Refusal(NamedTuple):
    """How many calls of a kind were refused in about a second, before they were admitted."""

    at_ms: int
    department: str
    algorithm: str
    """Empty where no registered one was asked."""
    version: int
    """0: the call came to no deployment."""
    code: str
    calls: int


class Denial(NamedTuple):
    """How many requests of a kind were refused in about a second for who asked, or for what."""

    at_ms: int
    key: str
    """Empty: a stranger's."""
    person: str
    role: str
    department: str
    source: str
    """The address that the first of them came from."""
    action: str
    target: str
    """What was asked; never what a stranger, or nobody else, calls something."""
    purpose: str
    """As the first of them stated it."""
    door: str
    code: str
    calls: int


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

    def refuse(self, record: Refusal) -> None:
        """Queue a line."""
        self._lines.append(orjson.dumps(("R", *record)))

    def deny(self, record: Denial) -> None:
        """Queue a line."""
        self._lines.append(orjson.dumps(("D", *record)))

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
    def name(self) -> str:
        """The file's name, another one after it grew long."""
        return self._name

    @property
    def size(self) -> int:
        """How long it is."""
        return self._size

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
        self._name = f"{name}{SUFFIX}"


def read_from(
    path: Path, offset: int, *, kinds: str = "", limit: int = 4 << 20
) -> tuple[list[list[Any]], int]:
    """Whole lines (of some kinds) after an offset, and the offset behind all of them.

    A torn last line is left for the next time.
    """
    found, following = _lines(path, offset, limit)
    begins = tuple(f'["{kind}'.encode() for kind in kinds or [""])
    lines = [line for line in found if line.startswith(begins)]
    try:
        return orjson.loads(b"[" + b",".join(lines) + b"]"), following
    except orjson.JSONDecodeError:  # a line torn by a power loss; its answer never left
        return list(_readable(lines)), following


def read_calls(
    path: Path, offset: int, *, limit: int = 4 << 20
) -> tuple[list[Settled], list[Refusal], int]:
    """As `read_from`, what the ledger is made of; half of what reading cost was making lists first."""
    lines, following = _lines(path, offset, limit)
    settled = _SETTLED.read([line[5:] for line in lines if line[2:3] == b"S"])
    refused = _REFUSED.read([line[5:] for line in lines if line[2:3] == b"R"])
    return settled, refused, following


Record = TypeVar("Record")


class _Records(Generic[Record]):
    """Reads lines without the letter that they begin with."""

    def __init__(self, kind: Callable[..., Record]) -> None:
        self._kind = kind
        self._many: msgspec.json.Decoder[list[Record]] = msgspec.json.Decoder(list[kind])  # type: ignore[valid-type]

    def read(self, lines: list[bytes]) -> list[Record]:
        if not lines:
            return []
        try:
            return self._many.decode(b"[[" + b",[".join(lines) + b"]")
        except (
            msgspec.DecodeError
        ):  # one is torn, as above; what is whole counts, whatever it holds
            found = []
            for line in lines:
                with contextlib.suppress(orjson.JSONDecodeError, TypeError):
                    found.append(self._kind(*orjson.loads(b"[" + line)))
            return found


_SETTLED, _REFUSED = _Records(Settled), _Records(Refusal)


def _lines(path: Path, offset: int, limit: int) -> tuple[list[bytes], int]:
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(limit)
    end = data.rfind(b"\n") + 1
    return data[:end].splitlines(), offset + end


def read_denials(
    path: Path, offset: int, *, before_ms: int, until_ms: int, limit: int = 1 << 20
) -> tuple[list[Denial], int]:
    """Denials after an offset up to the first in a span of time, and the offset of that one."""
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(limit)
    found = []
    for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
        with contextlib.suppress(orjson.JSONDecodeError, TypeError):  # torn by a power loss
            denial = Denial(*orjson.loads(line)[1:])
            if before_ms <= denial.at_ms < until_ms:
                break
            found.append(denial)
        offset += len(line)
    return found, offset


def read_range(path: Path, begin: int, end: int) -> Iterator[Settled]:
    """The answers that lie between two bytes at which lines begin."""
    while begin < end:
        settled, _, following = read_calls(path, begin, limit=min(end - begin, 4 << 20))
        if following == begin:
            return
        yield from settled
        begin = following


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
