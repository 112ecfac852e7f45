"""The audit trail's keeper: daily checkpoints, written where they can be kept elsewhere, and the proof."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from citybrain.core.schemas import Actor
from citybrain.core.schemas.audits import Checkpoint, Verification
from citybrain.registry.signing import Signers
from citybrain.storage.database import Database
from citybrain.storage.records.audit_chain import (
    Chain,
    Entry,
    export,
    exported,
    rows,
    statement,
    verify,
)

log = logging.getLogger(__name__)
FILE = "checkpoints.jsonl"


class AuditDesk:
    """What the auditor asks for."""

    def __init__(
        self, database: Database, signers: Signers, folders: list[Path], zone: ZoneInfo
    ) -> None:
        self._database = database
        self._signers = signers
        self._folders = folders
        self._zone = zone
        self.chain = Chain(database, signers.sign_text)

    def run(self) -> None:
        """One checkpoint a day, and one when there is none yet."""
        today = f"{datetime.now(self._zone):%Y-%m-%d}"
        if self.chain.newest_day() != today and (point := self.chain.checkpoint(today)):
            for folder in self._folders:
                append(folder / FILE, point)

    def expire(self, before: datetime, actor: Actor) -> Iterator[int]:
        """Remove old entries, a signed checkpoint's at a time; nothing of a trail that was changed."""
        while point := self.chain.due(before):
            known = [one for one in self.chain.checkpoints() if one.last <= point.last]
            found = verify(rows(self._database, until=point.last), known, self.signed, part=True)
            if not found.intact:
                log.error(
                    "the audit trail does not expire: entry %s: %s", found.first_bad, found.reason
                )
                return
            yield self.chain.expire(point, actor)

    def signed(self, point: Checkpoint) -> bool:
        """Whether this platform signed it."""
        said = statement(point.day, point.last, point.hash, point.count)
        return self._signers.signed_text(point.signed, said)

    def verify(self, kept: Iterable[Checkpoint] = ()) -> Verification:
        """Walk the whole trail, against our own checkpoints and those that were kept elsewhere."""
        return self._timed(rows(self._database), [*self.chain.checkpoints(), *kept])

    def verify_export(self, lines: Iterable[str], kept: Iterable[Checkpoint]) -> Verification:
        """The same of an export."""
        return self._timed(exported(lines), list(kept))

    def _timed(self, entries: Iterable[Entry], points: list[Checkpoint]) -> Verification:
        begin = time.perf_counter()
        found = verify(entries, points, self.signed)
        took = round(time.perf_counter() - begin, 3)
        return found.model_copy(update={"seconds": took, "checkpoints": len(points)})

    def export(self, since: datetime | None, until: datetime | None) -> Iterator[str]:
        """Entries as JSON lines, for the auditor."""
        return export(self._database, since, until)


def append(path: Path, point: Checkpoint) -> None:
    """Add a checkpoint to a file; it is on the disk when this returns."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "ab") as file:
        file.write(point.model_dump_json().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
