"""The book as the control process sees it: opens slots, and puts right what they count."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Sequence
from pathlib import Path

from citybrain.serving.metering.book import (
    BASE,
    BURST,
    COST,
    DUE,
    END,
    HEAD,
    JOURNALS,
    LIMIT,
    MICRO,
    NEXT,
    QUOTA,
    RESERVED,
    SLOTS,
    TOTAL,
    USED,
    WIDTH,
    WINDOW,
    Book,
)


class KeptBook(Book):
    """Of one process only."""

    def open_slot(
        self, slot: int, quota: int, limit: int, window: tuple[int, int, int], base: int
    ) -> None:
        """Begin to count a limit: its window (ms: begin, end, end of the next), what is used already."""
        at = HEAD + slot * WIDTH
        with self._locked():
            cells = self._cells
            for cell in range(at, at + RESERVED):
                cells[cell] = 0
            cells[at + LIMIT] = limit
            cells[at + WINDOW], cells[at + END], cells[at + NEXT] = window
            cells[at + BASE] = base
            cells[at + TOTAL] = base + sum(cells[at + RESERVED : at + WIDTH])
            cells[at + QUOTA] = quota

    def open_rate(self, slot: int, quota: int, each: float, burst: float) -> None:
        """Begin to count a rate: so many a second, and so many at once."""
        at = HEAD + slot * WIDTH
        with self._locked():
            self._cells[at + LIMIT] = int(each * MICRO)
            self._cells[at + COST] = int(1e9 / each)
            self._cells[at + BURST] = int(max(1.0, burst) * 1e9 / each)
            self._cells[at + DUE] = 0
            self._cells[at + QUOTA] = quota

    def counts(self, slot: int) -> int:
        """Which limit a slot counts; 0: none."""
        with self._locked():
            return self._cells[HEAD + slot * WIDTH + QUOTA]

    def window(self, slot: int) -> tuple[int, int]:
        """When its window ends (ms), and what counts against it now."""
        _, total, *_ = self.read(slot)
        return self._cells[HEAD + slot * WIDTH + END], total

    def close_slot(self, slot: int) -> None:
        """Count it no more."""
        with self._locked():
            self._cells[HEAD + slot * WIDTH + QUOTA] = 0

    def advance(self, journal: int, offset: int) -> None:
        """A journal was looked at up to here, whoever wrote it."""
        with self._locked():
            self._cells[3 + 2 * journal] = max(self._cells[3 + 2 * journal], offset)

    def read(self, slot: int) -> tuple[int, int, int, list[int]]:
        """Where its window begins, what is used (and reserved) in it, what of it by no journal, by which."""
        at = HEAD + slot * WIDTH
        with self._locked():
            moment = time.time_ns() // MICRO
            if self._cells[at + END] and moment >= self._cells[at + END]:
                self._roll(at)
            cells = self._cells
            return (cells[at + WINDOW], cells[at + TOTAL], cells[at + BASE],
                    list(cells[at + USED : at + RESERVED]))  # fmt: skip

    def journals(self) -> list[tuple[int, int]]:
        """The key of each journal's column, 0 where it is free, and how far it was counted."""
        with self._locked():
            return [
                (self._cells[2 + 2 * column], self._cells[3 + 2 * column])
                for column in range(JOURNALS)
            ]

    def snapshot(self, slots: Sequence[int], column: int) -> tuple[int, list[tuple[int, int]]]:
        """How far a journal was counted, and for each slot its window and what that journal used."""
        with self._locked():
            rows = []
            for slot in slots:
                at = HEAD + slot * WIDTH
                rows.append((self._cells[at + WINDOW], self._cells[at + USED + column]))
            return self._cells[3 + 2 * column], rows

    def correct(self, slot: int, window: int, column: int, by: int) -> None:
        """Add to what a journal used, if the window is still the one that was looked at."""
        at = HEAD + slot * WIDTH
        with self._locked():
            if self._cells[at + WINDOW] == window:
                self._cells[at + USED + column] += by
                self._cells[at + TOTAL] += by

    def open_window(self, slot: int, window: tuple[int, int, int]) -> None:
        """Say anew when its window begins and ends, and when the next one does (ms)."""
        at = HEAD + slot * WIDTH
        with self._locked():
            self._cells[at + WINDOW], self._cells[at + END], self._cells[at + NEXT] = window

    def next_window(self, slot: int, end: int) -> None:
        """Say when the window after this one ends."""
        with self._locked():
            self._cells[HEAD + slot * WIDTH + NEXT] = end

    def rebase(self, bases: Sequence[tuple[int, int, int]], gone: Sequence[int] = ()) -> None:
        """Say anew what is used beyond the journals (slot, window, amount), and forget some of these.

        `gone`: columns of journals that are in the ledger whole, and so in the amounts.
        """
        cells = self._cells
        with self._locked():
            for slot, window, base in bases:
                at = HEAD + slot * WIDTH
                if cells[at + WINDOW] == window:
                    cells[at + TOTAL] += base - cells[at + BASE]
                    cells[at + BASE] = base
            for column in gone:
                for slot in range(SLOTS):
                    at = HEAD + slot * WIDTH
                    if used := cells[at + USED + column]:
                        cells[at + TOTAL] -= used
                        cells[at + USED + column] = 0
                cells[2 + 2 * column] = cells[3 + 2 * column] = 0

    def bury(self, folder: Path) -> None:
        """Free what processes reserved that have died."""
        for path in folder.glob("*.writer"):
            writer = int(path.stem)
            if writer == self._writer:
                continue
            with path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue
                with self._locked():
                    self._forget(writer)
