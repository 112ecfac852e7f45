"""The counters of all limits, in memory that the processes of a node share.

A limit is exact because everybody counts in one place: a file that each process maps, changed under a
lock that takes a microsecond and that the kernel frees when its holder dies. Nothing waits for a database.

A slot is one limit: what is used up in its window and what is reserved by calls under way. What is used is
kept by journal, what is reserved by process, so that the control process can put right what the
death of one leaves (`keeper.py`): the journals are the truth, the book is how it is known in time.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from citybrain.core.errors import NotReady

MICRO = 1_000_000
"""Amounts are whole millionths of a unit."""
MAGIC = 0x636974790002
SLOTS, JOURNALS, WRITERS = 2048, 24, 24
HEAD = 2 + 2 * JOURNALS
(QUOTA, WINDOW, END, NEXT, LIMIT, TOTAL, BASE, DUE, COST, BURST) = range(10)
"""A slot's fields: which limit it counts; its window begins and ends (ms), the end after that; the limit; what counts against it
(used and reserved); what is used beyond the columns; for a rate, when the next unit is due (ns), what
one costs (ns) and how far one may run ahead (ns)."""
USED = 10
RESERVED = USED + JOURNALS
WIDTH = RESERVED + WRITERS
SIZE = 8 * (HEAD + SLOTS * WIDTH)


class Meter(NamedTuple):
    """A limit as a caller meets it."""

    slot: int
    unit: str
    per: str
    name: str
    """`requests-day`: how headers call it."""
    quota: int
    """Which limit it is: a slot that does not count it yet says so."""


class Short(NamedTuple):
    """A limit that has no room: what is left, and when to come again (seconds)."""

    meter: Meter
    limit: float
    left: float
    wait: float


class Room(NamedTuple):
    """The tightest limit after a call was let through."""

    meter: Meter
    limit: float
    left: float
    resets: float


def journal_key(name: str) -> int:
    """A number for a journal, from its file's name."""
    return int(name.partition("-")[2][:8], 16) + 1


def holder_lives(folder: Path, holder: str) -> bool:
    """Whether the process of this name still answers calls on this node."""
    path = folder / f"{holder.partition('.')[0]}.writer"
    try:
        with path.open("rb") as file:
            if file.read().decode() != holder:
                return False
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return True
            return False
    except OSError:
        return False


class Book:
    """One process's view of the shared counters, for a process that answers calls."""

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._file = os.open(path, flags, 0o600)
        self._thread = threading.Lock()
        with self._locked():
            if os.fstat(self._file).st_size < SIZE:
                os.ftruncate(self._file, SIZE)
            self._map = mmap.mmap(self._file, SIZE)
            self._cells = memoryview(self._map).cast("q")
            if self._cells[0] != MAGIC:
                self._cells[0] = MAGIC
        self._writer = -1
        self.holder = ""
        """This process's name among the writers."""
        self._claim: int | None = None

    def close(self) -> None:
        """Let go of it."""
        self._cells.release()
        self._map.close()
        os.close(self._file)
        if self._claim is not None:
            os.close(self._claim)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        # The thread's lock first: the kernel's belongs to the whole open file.
        with self._thread:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def enter(self, folder: Path) -> None:
        """Take a column for what this process reserves; the kernel tells when it has died."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for writer in range(WRITERS):
            claim = os.open(
                folder / f"{writer}.writer", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            try:
                fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(claim)
                continue
            self._claim, self._writer = claim, writer
            os.ftruncate(claim, 0)
            self.holder = f"{writer}.{secrets.token_hex(8)}"
            os.write(claim, self.holder.encode())
            with self._locked():
                self._forget(writer)
            return
        raise RuntimeError(f"More than {WRITERS} processes answer calls on this node.")

    def take(self, meters: Sequence[Meter], amounts: Sequence[int]) -> Short | Room:
        """Reserve so much of each limit, all of it or nothing."""
        cells, mine = self._cells, RESERVED + self._writer
        moment = time.time_ns()
        with self._thread:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                tightest: Room | None = None
                share = 2.0
                for meter, amount in zip(meters, amounts, strict=True):
                    at = HEAD + meter.slot * WIDTH
                    if cells[at + QUOTA] != meter.quota:
                        raise NotReady(
                            "A limit of this department is being set up.",
                            hint="Repeat in a second.",
                        )
                    if meter.per == "second":
                        due = max(cells[at + DUE], now := time.monotonic_ns())
                        over = due + amount * cells[at + COST] // MICRO - now - cells[at + BURST]
                        if over > 0:
                            return Short(meter, cells[at + LIMIT] / MICRO, 0.0, over / 1e9)
                        continue
                    if cells[at + END] and moment // MICRO >= cells[at + END]:
                        self._roll(at)
                    limit = cells[at + LIMIT]
                    left = limit - cells[at + TOTAL] - amount
                    wait = (
                        max(0.0, cells[at + END] / 1e3 - moment / 1e9) if cells[at + END] else 1.0
                    )
                    if left < 0:
                        return Short(meter, limit / MICRO, (left + amount) / MICRO, wait)
                    if left < share * limit:
                        share = left / limit
                        tightest = Room(meter, limit / MICRO, left / MICRO, wait)
                for meter, amount in zip(meters, amounts, strict=True):
                    at = HEAD + meter.slot * WIDTH
                    if meter.per == "second":
                        due = max(cells[at + DUE], time.monotonic_ns())
                        cells[at + DUE] = due + amount * cells[at + COST] // MICRO
                    else:
                        cells[at + TOTAL] += amount  # first: a death in between counts too much
                        cells[at + mine] += amount
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)
        return tightest or Room(meters[0], 0.0, 0.0, 0.0)

    def extend(self, meter: Meter, amount: int) -> Short | None:
        """Reserve more of one limit."""
        found = self.take((meter,), (amount,))
        return found if isinstance(found, Short) else None

    def settle(
        self, taken: Sequence[tuple[Meter, int, int]], journal: int = -1, offset: int = 0
    ) -> None:
        """Turn what was reserved (the first number) into what was used (the second) in a journal.

        `offset`: how long that journal is, with the lines of these calls.
        """
        cells, mine = self._cells, RESERVED + self._writer
        with self._thread:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                for meter, reserved, used in taken:
                    at = HEAD + meter.slot * WIDTH
                    if meter.per == "second":
                        cells[at + DUE] += (used - reserved) * cells[at + COST] // MICRO
                        continue
                    counted = 0 if meter.per == "once" else used
                    cells[at + TOTAL] += counted - reserved
                    cells[at + mine] -= reserved
                    if counted:
                        cells[at + USED + journal] += counted
                if journal >= 0:
                    cells[2 + 2 * journal + 1] = offset
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def journal(self, name: str) -> int:
        """The column of a journal, by its file's name."""
        with self._locked():
            return self._column(journal_key(name))

    def _column(self, key: int) -> int:
        free = -1
        for column in range(JOURNALS):
            found = self._cells[2 + 2 * column]
            if found == key:
                return column
            if not found and free < 0:
                free = column
        if free < 0:
            raise RuntimeError(f"More than {JOURNALS} journals wait for the ledger.")
        self._cells[2 + 2 * free], self._cells[2 + 2 * free + 1] = key, 0
        return free

    def _forget(self, writer: int) -> None:
        for slot in range(SLOTS):
            at = HEAD + slot * WIDTH
            if reserved := self._cells[at + RESERVED + writer]:
                self._cells[at + TOTAL] -= reserved
                self._cells[at + RESERVED + writer] = 0

    def _roll(self, at: int) -> None:
        """The window is over: what was used in it counts no longer, what is reserved goes on."""
        cells = self._cells
        cells[at + TOTAL] = sum(cells[at + RESERVED : at + WIDTH])
        cells[at + BASE] = 0
        for column in range(at + USED, at + RESERVED):
            cells[column] = 0
        length = cells[at + END] - cells[at + WINDOW]
        cells[at + WINDOW] = cells[at + END]
        # Without word from the control process, as long as the one before.
        cells[at + END] = cells[at + NEXT] or cells[at + WINDOW] + length
        cells[at + NEXT] = 0
