"""What is kept how long, and the job that removes what has expired."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from citybrain.core.dates import month_of
from citybrain.core.errors import Conflict, InvalidInput, RowNotFound
from citybrain.core.home import Home
from citybrain.core.schemas import Actor
from citybrain.core.schemas.people import PLATFORM
from citybrain.core.schemas.retention import Retention
from citybrain.core.settings import Settings
from citybrain.platform.audits import AuditDesk
from citybrain.serving.rollout import shadow
from citybrain.storage.database import Database
from citybrain.storage.moments import now
from citybrain.storage.records.audit import write
from citybrain.storage.records.audit_chain import LEAST_DAYS
from citybrain.storage.records.bills import Bills
from citybrain.storage.records.retentions import Expired, Retentions

log = logging.getLogger(__name__)
EXPIRY = Actor(key="retention", department=PLATFORM, role="admin")


class Log(NamedTuple):
    """Something that is written down and does not have to stay for ever."""

    says: str
    days: float
    """Where nobody says another number."""
    least: int
    setting: str = ""
    """The setting that says it, where it cannot be said here."""


def logs(settings: Settings) -> dict[str, Log]:
    """All of them, with the numbers of these settings."""
    jobs, repeats = settings.jobs.keep_hours / 24, settings.serving.repeat_hours / 24
    return {
        "audit": Log("the audit trail, up to a signed checkpoint", 1095, LEAST_DAYS),
        "calls": Log("the ledger's rows, by whole months with issued statements", 730, 93),
        "usage-days": Log("usage by day", 3650, 62),
        "usage-minutes": Log("calls and latency by minute, for the console", 90, 1),
        "predictions": Log("sampled calls, where an algorithm says no shorter time",
                           settings.predictions.keep_days, 1),
        "shadows": Log("answers of shadows beside those that callers got", 30, 1),
        "jobs": Log("what batch jobs were handed, and their results", jobs, 1),
        "notices": Log("what departments were told", 365, 7),
        "process-logs": Log("logs of processes and of former Ray sessions", 90, 7),
        "repeats": Log("answers kept for repeated calls", repeats, 0, "CITYBRAIN_SERVING__REPEAT_HOURS"),
    }  # fmt: skip


class RetentionDesk:
    """Says how long, and removes what is older."""

    def __init__(
        self, database: Database, home: Home, settings: Settings, audits: AuditDesk, bills: Bills
    ) -> None:
        self._database = database
        self._rows, self._expired = Retentions(database), Expired(database)
        self._home = home
        self._settings = settings
        self._audits = audits
        self._bills = bills
        self._logs = logs(settings)

    def all(self) -> list[Retention]:
        """Every log, and how long it is kept."""
        said = self._rows.all()
        return [
            Retention(
                log=name, says=kept.says, days=row.days if row else kept.days, default=kept.days,
                least=kept.least, setting=kept.setting, set_by=row.set_by if row else "",
                set_at=row.set_at if row else None,
            )
            for name, kept in self._logs.items()
            for row in [said.get(name)]
        ]  # fmt: skip

    def put(self, name: str, days: int | None, actor: Actor) -> Retention:
        """Keep a log so many days from now on; None: as the platform has it."""
        kept = self._logs.get(name)
        if kept is None:
            raise RowNotFound(
                f"There is no log {name[:40]!r}.", hint=f"There are: {', '.join(self._logs)}."
            )
        if kept.setting:
            raise InvalidInput(f"A setting says how long {name} are kept.", hint=kept.setting)
        if days is not None and days < kept.least:
            raise InvalidInput(
                f"{name} is kept {kept.least} days at least, not {days}.",
                hint="docs/retention.md says why.",
            )
        self._rows.put(name, days, actor)
        return next(one for one in self.all() if one.log == name)

    def prediction_days(self, own: int | None) -> int:
        """How long an algorithm's sampled calls are kept that says `own` days, or nothing."""
        row = self._rows.all().get("predictions")
        if row is None:
            return own or self._settings.predictions.keep_days
        return min(own or row.days, row.days)

    def run(self) -> None:
        """Remove what has expired of every log; what fails is tried again the next time."""
        removals: dict[str, Callable[[datetime], int]] = {
            "audit": self._audit, "calls": self._calls, "usage-days": self._days,
            "usage-minutes": self._expired.minutes, "shadows": self._shadows,
            "notices": self._expired.notices, "process-logs": self._process_logs,
        }  # fmt: skip
        for kept in self.all():
            if kept.log == "jobs" and kept.set_at is not None:
                self._expired.jobs(timedelta(days=kept.days))
            remove = removals.get(kept.log)
            if remove is None:
                continue
            before = now() - timedelta(days=kept.days)
            try:
                removed = remove(before)
            except Exception:
                log.exception("what expired of %s could not be removed", kept.log)
                continue
            if removed and kept.log != "audit":  # which says so itself, with its checkpoint
                write(self._database, EXPIRY, "retention.expire", kept.log, removed=removed,
                      before=before)  # fmt: skip

    def _audit(self, before: datetime) -> int:
        return sum(self._audits.expire(before, EXPIRY))

    def _calls(self, before: datetime) -> int:
        """Whole months, each with its statements issued first: a bill outlives its calls."""
        zone, first = self._settings.zone, self._expired.first_call()
        local = before.astimezone(zone)
        end = month_of(f"{local:%Y-%m}", zone)[0]
        while first is not None and first < end:
            month = f"{first.astimezone(zone):%Y-%m}"
            begin, over = month_of(month, zone)
            for department in self._expired.departments(begin, over):
                try:
                    self._bills.issue(department, month, EXPIRY)
                except Conflict:  # it is issued already
                    continue
            first = over
        return self._expired.calls(end)

    def _days(self, before: datetime) -> int:
        return self._expired.days(f"{before.astimezone(self._settings.zone):%Y-%m-%d}")

    def _shadows(self, before: datetime) -> int:
        return shadow.forget(self._home.shadows, before)

    def _process_logs(self, before: datetime) -> int:
        """Files that nobody has written to since."""
        removed, moment = 0, before.timestamp()
        for path in _older(self._home.logs.rglob("*"), moment):
            if path.is_file():
                path.unlink(missing_ok=True)
                removed += 1
        present = (self._home.ray / "session_latest").resolve()
        for session in _older(self._home.ray.glob("session_2*"), moment):
            if session.resolve() != present and session.is_dir():
                shutil.rmtree(session, ignore_errors=True)
                removed += 1
        return removed


def _older(paths: Iterator[Path], moment: float) -> list[Path]:
    moment = min(moment, time.time())
    return [path for path in paths if not path.is_symlink() and path.stat().st_mtime < moment]
