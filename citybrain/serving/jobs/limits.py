"""A job's part of its department's limits: reserved for a chunk before it goes, used when it is written."""

from __future__ import annotations

from citybrain.core.errors import QuotaExceeded
from citybrain.core.schemas import BatchJob
from citybrain.models.task import TASKS
from citybrain.serving.gateway.permits import Permit
from citybrain.serving.metering.book import Book
from citybrain.serving.metering.till import Taken, Till
from citybrain.storage.journal import JournalWriter, Settled


class ChunkLimits:
    """What is reserved for the chunk that each job is at."""

    def __init__(self, book: Book, journal: JournalWriter) -> None:
        self._till = Till(book, journal)
        self._taken: dict[str, Taken] = {}

    def reserve(self, job: BatchJob, permit: Permit, rows: int) -> None:
        """As much as the chunk has; QuotaExceeded while there is no room for it."""
        if not permit.meters or job.id in self._taken:
            return
        taken = self._till.take(permit, job.department, job.algorithm)
        known = (
            TASKS.get(job.task).unit != "audio-seconds"
        )  # seconds are known when they were heard
        try:
            self._till.extend(taken, rows, float(rows) if known else 0.0)
        except QuotaExceeded:
            self._till.release(taken)
            raise
        self._taken[job.id] = taken

    def settle(self, job: BatchJob, settled: Settled) -> None:
        """The chunk is in the journal."""
        if taken := self._taken.pop(job.id, None):
            self._till.settle([(taken, settled)])

    def release(self, job: BatchJob) -> None:
        """The job ended within a chunk."""
        if taken := self._taken.pop(job.id, None):
            self._till.release(taken)
