"""Calls that were refused before they were admitted: counted, and told to the journal in sums.

A line for each would let a flood fill the disk; one a second for each department, algorithm and
error cannot.
"""

from __future__ import annotations

import time
from collections import Counter

from citybrain.storage.journal import JournalWriter, Refusal

SECONDS = 1.0


class Refusals:
    """The count of one gateway since its last lines."""

    def __init__(self, journal: JournalWriter) -> None:
        self._journal = journal
        self._counts: Counter[tuple[str, str, int, str]] = Counter()
        self._written = 0.0

    def count(self, department: str, algorithm: str, version: int, code: str) -> None:
        """One more; version 0: no deployment was asked."""
        self._counts[department, algorithm, version, code] += 1

    def write(self, *, last: bool = False) -> None:
        """Queue a line for each kind, at most once a second, and for the last time."""
        moment = time.monotonic()
        if self._counts and (last or moment - self._written >= SECONDS):
            at_ms = time.time_ns() // 1_000_000
            for kind, count in self._counts.items():
                self._journal.refuse(Refusal(at_ms, *kind, count))
            self._counts.clear()
            self._written = moment
