"""Keeps the book of limits true: the journals say what was used, and this puts the book right.

Runs beside the loader, in its thread. Three things make the book wrong: a limit that is new, a process that
died between its journal and the book, and a line that reached the journal late (a full disk). For each
journal the book says up to which byte it was counted; what the journal holds up to there is what its
column must hold, whatever is written meanwhile.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

from citybrain.core.schemas.quotas import Quota
from citybrain.serving.metering.book import MICRO, journal_key
from citybrain.serving.metering.kept_book import KeptBook
from citybrain.storage.database import Database
from citybrain.storage.journal import journals, read_range
from citybrain.storage.records.quotas import Quotas
from citybrain.storage.records.used import UsedDay, used_since

log = logging.getLogger(__name__)
Whose = tuple[str, str, str, str]
"""Department, algorithm, unit of the algorithm's own, day."""


class Used(NamedTuple):
    """Answered calls, added up; amounts in millionths."""

    requests: int = 0
    rows: int = 0
    amount: int = 0
    work: int = 0

    def plus(self, other: Used, sign: int = 1) -> Used:
        """With others added, or taken away."""
        return Used(*(a + sign * b for a, b in zip(self, other, strict=True)))

    def of(self, unit: str, own: str) -> int:
        """How much of a unit; `own` is what `amount` counts."""
        if unit in ("requests", "rows"):
            return MICRO * (self.requests if unit == "requests" else self.rows)
        return self.work if unit == "cpu-seconds" else self.amount if unit == own else 0


class JournalSums:
    """What one journal says was used up to a byte, which may move either way."""

    def __init__(self, path: Path, zone: ZoneInfo) -> None:
        self._path = path
        self._zone = zone
        self._position = 0
        self._sums: dict[Whose, Used] = defaultdict(Used)

    def at(self, position: int) -> dict[Whose, Used]:
        """The sums of all whole lines before this byte."""
        begin, end = sorted((self._position, position))
        sign = 1 if position > self._position else -1
        for call in read_range(self._path, begin, end):
            if call.status == 200:
                day = f"{datetime.fromtimestamp(call.at_ms / 1e3, self._zone):%Y-%m-%d}"
                whose = (call.department, call.algorithm, call.unit, day)
                used = Used(1, call.rows, round(call.amount * MICRO), call.work_micros)
                self._sums[whose] = self._sums[whose].plus(used, sign)
        self._position = position
        return self._sums


class Keeper:
    """Opens a slot for each limit, and looks after all of them."""

    def __init__(
        self, book: KeptBook, journal: Path, writers: Path, database: Database, zone: ZoneInfo
    ) -> None:
        self._book = book
        self._journal = journal
        self._writers = writers
        self._quotas = Quotas(database)
        self._database = database
        self._zone = zone
        self._sums: dict[int, JournalSums] = {}
        self._known: dict[str, Quota] = {}

    def run(self) -> None:
        """Look at everything once."""
        active = {quota.id: quota for quota in self._quotas.active()}
        for gone in self._known.keys() - active.keys():
            if self._book.counts(self._known[gone].slot) == number(gone):
                self._book.close_slot(self._known[gone].slot)
        fresh = [q for q in active.values() if self._book.counts(q.slot) != number(q.id)]
        self._known = active
        if not active:
            return
        self._book.bury(self._writers)
        windows = [quota for quota in active.values() if quota.per in ("day", "month")]
        days, offsets = used_since(self._database, _first_day(windows, self._zone))
        paths = {journal_key(path.name): path for path in journals(self._journal)}
        columns = {key: column for column, (key, _) in enumerate(self._book.journals()) if key}
        gone_columns = [column for key, column in columns.items() if key not in paths]
        for key in [key for key in self._sums if key not in paths]:
            del self._sums[key]
        live = self._folded(paths, offsets)
        for quota in fresh:
            self._open(quota, days, live)
        # Each time: a call that was made again after a kill has a line in two journals, and counts once.
        bases = [
            (quota.slot, begin, _total(quota, days, live, begin, end, self._zone))
            for quota in windows
            for begin, end in [_window(quota.per, self._zone)]
        ]
        self._book.rebase(bases, gone_columns)
        if fresh:
            for path in paths.values():
                column = self._book.journal(path.name)
                self._book.advance(column, offsets.get(path.name, 0))
        for quota in windows:
            self._book.next_window(quota.slot, _window(quota.per, self._zone, after=True)[1])
        self._true_up(windows, paths)

    def _folded(self, paths: dict[int, Path], offsets: dict[str, int]) -> list[dict[Whose, Used]]:
        """What the ledger already has of the journals that are not finished."""
        return [
            dict(self._of(key, path).at(offsets.get(path.name, 0))) for key, path in paths.items()
        ]

    def _of(self, key: int, path: Path) -> JournalSums:
        return self._sums.setdefault(key, JournalSums(path, self._zone))

    def _open(self, quota: Quota, days: Iterable[UsedDay], live: list[dict[Whose, Used]]) -> None:
        if quota.per == "second":
            self._book.open_rate(quota.slot, number(quota.id), quota.amount, quota.burst)
            return
        limit = round(quota.amount * MICRO)
        if quota.per == "once":
            self._book.open_slot(quota.slot, number(quota.id), limit, (0, 0, 0), 0)
            return
        begin, end = _window(quota.per, self._zone)
        after = _window(quota.per, self._zone, after=True)[1]
        base = _total(quota, days, live, begin, end, self._zone)
        self._book.open_slot(quota.slot, number(quota.id), limit, (begin, end, after), base)

    def _true_up(self, windows: list[Quota], paths: dict[int, Path]) -> None:
        """Make each column what its journal says."""
        slots = [quota.slot for quota in windows]
        for column, (key, _) in enumerate(self._book.journals()):
            path = paths.get(key)
            if not key or path is None or not slots:
                continue
            position, rows = self._book.snapshot(slots, column)
            sums = self._of(key, path).at(position)
            for quota, (window, counted) in zip(windows, rows, strict=True):
                begin, end = _window(quota.per, self._zone)
                if begin != window:
                    continue
                said = sum(
                    used.of(quota.unit, whose[2]) for whose, used in sums.items()
                    if _covers(quota, whose[0], whose[1]) and _within(whose[3], begin, end, self._zone)
                )  # fmt: skip
                if said != counted:
                    log.info("%s: the book had %+d, put right", quota.id, counted - said)
                    self._book.correct(quota.slot, window, column, said - counted)


def number(quota: str) -> int:
    """A limit's id as the book knows it."""
    return int(quota, 16)


def _window(per: str, zone: ZoneInfo, *, after: bool = False) -> tuple[int, int]:
    """When the present (or the next) day or month of the city begins and ends, in ms."""
    begin = datetime.now(zone).replace(hour=0, minute=0, second=0, microsecond=0)
    for _ in range(1 + after):
        if per == "month":
            start = begin.replace(day=1)
            begin = (start + timedelta(days=32)).replace(day=1)
        else:
            start = begin
            begin = (start + timedelta(hours=36)).replace(hour=0)
    return int(start.timestamp() * 1000), int(begin.timestamp() * 1000)


def _first_day(windows: list[Quota], zone: ZoneInfo) -> str:
    per = "month" if any(quota.per == "month" for quota in windows) else "day"
    return f"{datetime.fromtimestamp(_window(per, zone)[0] / 1e3, zone):%Y-%m-%d}"


def _within(day: str, begin: int, end: int, zone: ZoneInfo) -> bool:
    first, last = (
        f"{datetime.fromtimestamp(ms / 1e3, zone):%Y-%m-%d}" for ms in (begin, end - 1000)
    )
    return first <= day <= last


def _covers(quota: Quota, department: str, algorithm: str) -> bool:
    return quota.department == department and quota.algorithm in ("", algorithm)


def _total(
    quota: Quota, days: Iterable[UsedDay], live: list[dict[Whose, Used]], begin: int, end: int,
    zone: ZoneInfo,
) -> int:  # fmt: skip
    """What the ledger says was used in the window, less what journals that are still there say of it."""
    total = sum(
        Used(d.requests, d.rows, round(d.amount * MICRO), d.work_micros).of(quota.unit, d.unit)
        for d in days
        if _covers(quota, d.department, d.algorithm) and _within(d.day, begin, end, zone)
    )
    for sums in live:
        total -= sum(
            used.of(quota.unit, whose[2]) for whose, used in sums.items()
            if _covers(quota, whose[0], whose[1]) and _within(whose[3], begin, end, zone)
        )  # fmt: skip
    return total
