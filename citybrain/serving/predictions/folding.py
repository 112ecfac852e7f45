"""The control process's side: spool files into the prediction log, each once, whatever is killed when.

Finished files are moved into a batch's folder; a batch becomes parts that carry its name, and a batch that
is in the log is renamed before it is removed. So a batch that a kill left is folded again into the same
parts, and one that was renamed is only removed.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

from citybrain.core.errors import CityBrainError
from citybrain.models.package import Manifest
from citybrain.models.task import Task, open_task
from citybrain.serving.predictions.contents import Contents, contents
from citybrain.serving.predictions.spool import FULL, OPEN, Origin, Sampled, frames
from citybrain.storage.journal import is_finished
from citybrain.storage.prediction_log import PredictionLog, Row

log = logging.getLogger(__name__)
BATCH, DONE = "batch-", "done-"
BATCH_BYTES = 32 << 20


class Folding:
    """Empties the spool; one at a time."""

    def __init__(self, spool: Path, into: PredictionLog, secret: bytes) -> None:
        self._spool = spool
        self._log = into
        self._secret = secret

    def run(self) -> int:
        """Fold all that is finished; the number of rows."""
        for done in self._spool.glob(f"{DONE}*"):
            shutil.rmtree(done)
        rows = sum(self._fold(batch) for batch in sorted(self._spool.glob(f"{BATCH}*")))
        while batch := self._next_batch():
            rows += self._fold(batch)
        return rows

    def _next_batch(self) -> Path | None:
        found = sorted(self._spool.glob(f"*{FULL}"))
        for path in self._spool.glob(f"*{OPEN}"):
            with contextlib.suppress(FileNotFoundError):  # its gateway finished it just now
                if is_finished(path):
                    found.append(path)
        if not found:
            return None
        batch = self._spool / f"{BATCH}{time.time_ns()}"
        batch.mkdir(mode=0o700)
        size = 0
        for path in found:
            size += path.stat().st_size
            path.rename(batch / path.name)
            if size > BATCH_BYTES:
                break
        return batch

    def _fold(self, batch: Path) -> int:
        rows = [row for path in sorted(batch.iterdir()) for row in self._rows(path)]
        self._log.append(rows, batch.name.removeprefix(BATCH))
        shutil.rmtree(batch.rename(batch.with_name(batch.name.replace(BATCH, DONE, 1))))
        return len(rows)

    def _rows(self, path: Path) -> list[Row]:
        origins: dict[int, tuple[Origin, Manifest, Task]] = {}
        rows = []
        for frame in frames(path):
            try:
                if isinstance(frame, Origin):
                    manifest = Manifest.model_validate_json(frame.manifest)
                    origins[frame.number] = (frame, manifest, open_task(manifest))
                elif frame.origin in origins:
                    rows.append(self._row(frame, *origins[frame.origin]))
            except (CityBrainError, ValueError):  # another version of the platform wrote it
                log.exception("a sampled call could not be read")
        return rows

    def _row(self, one: Sampled, origin: Origin, manifest: Manifest, task: Task) -> Row:
        made, told = one.made, one.settled
        if made is None and one.call is not None and one.reply is not None:
            made = contents(one.call, one.reply, task, manifest.level, self._secret)
        made = made or Contents(None, "", None, None)
        return Row(
            request_id=told.request_id, at=datetime.fromtimestamp(told.at_ms / 1e3, UTC),
            algorithm=told.algorithm, version=told.version, target=origin.target,
            department=told.department, purpose=told.purpose, door=told.door,
            status=told.status, code=one.code, rows=told.rows, latency_ms=told.micros / 1e3,
            work_ms=told.work_micros / 1e3, rate=one.rate, **made._asdict(),
        )  # fmt: skip
