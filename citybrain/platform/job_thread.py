"""Jobs that take minutes, worked off one after another on a thread of the control process."""

from __future__ import annotations

import logging
import queue
import threading
from abc import ABC, abstractmethod

from citybrain.core.errors import CityBrainError

log = logging.getLogger(__name__)


class JobThread(ABC):
    """A queue of job ids; whatever a job ends with is written to its row."""

    what: str
    """What a job is called in messages and logs."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[str] = queue.SimpleQueue()

    def start(self) -> None:
        """Begin to work, with what an earlier process left."""
        for job in self.recover():
            self.put(job)
        threading.Thread(target=self._work, name=f"{self.what}s", daemon=True).start()

    def put(self, job: str) -> None:
        """Queue a job whose row is written."""
        self._queue.put(job)

    @abstractmethod
    def recover(self) -> list[str]:
        """Settle what a crash interrupted; the jobs that are to be done after all."""

    @abstractmethod
    def run(self, job: str) -> None:
        """Do one job and write its end down."""

    @abstractmethod
    def fail(self, job: str, code: str, message: str, hint: str = "") -> None:
        """Write down that it came to nothing."""

    def _work(self) -> None:
        while True:
            job = self._queue.get()
            try:
                self.run(job)
            except CityBrainError as error:
                self._failed(job, error.code, error.message, error.hint)
            except Exception:
                log.exception("%s %s failed", self.what, job)
                self._failed(job, "error", f"The {self.what} failed; see logs/control.log.")

    def _failed(self, job: str, code: str, message: str, hint: str = "") -> None:
        try:
            self.fail(job, code, message, hint)
        except Exception:  # the next job must not wait for a database that is away
            log.exception("the end of %s %s could not be written", self.what, job)
