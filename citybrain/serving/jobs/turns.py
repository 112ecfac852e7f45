"""The jobs' turns: answered chunk by chunk, metered, put together, kept a while.

The database holds the queue and a job's folder its rows, so there is nothing to recover: after a
stop the same turns go on. Each algorithm with open jobs has one worker, which lets departments
take turns, a chunk each. Everything runs on the loop of one thread of the control process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from citybrain.core.errors import BadKey, CityBrainError, RowNotFound, Unavailable
from citybrain.core.home import Home
from citybrain.core.names import Ref
from citybrain.core.schemas import BatchJob, Key
from citybrain.core.schemas.jobs import OPEN_JOB
from citybrain.core.settings import Settings, tls_of_ray
from citybrain.models.task import TASKS
from citybrain.serving.gateway.directory import Directory
from citybrain.serving.gateway.lanes import Lanes
from citybrain.serving.gateway.snapshot import Route
from citybrain.serving.jobs.folder import JobFolder, Part, problems, size_of
from citybrain.serving.jobs.limits import ChunkLimits
from citybrain.serving.jobs.runner import Histories, Runner, Stopped, Trouble
from citybrain.serving.metering.book import Book
from citybrain.storage.journal import Admitted, JournalWriter, Settled
from citybrain.storage.moments import now
from citybrain.storage.records.jobs import Jobs
from citybrain.storage.records.usage import JOB

log = logging.getLogger(__name__)
LOOK_SECONDS = 1.0
SWEEP_SECONDS = 30.0
ORPHAN_SECONDS = 3600.0


class JobTurns:
    """Works open jobs off on a thread."""

    def __init__(
        self, jobs: Jobs, directory: Directory, histories: Histories, home: Home,
        settings: Settings, book: Book, rouse: Callable[[str], None] | None = None,
    ) -> None:  # fmt: skip
        self._book = book
        self._rouse = rouse
        self._jobs = jobs
        self._directory = directory
        self._histories = histories
        self._home = home
        self._settings = settings.jobs
        self._serving = settings.serving
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._gone: set[str] = set()
        self._busy: set[str] = set()
        self._trouble: dict[str, Trouble] = {}
        self._since: dict[str, float] = {}
        self._used = 0
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)

    def start(self) -> None:
        """Begin to work, with what an earlier process left."""
        self._thread.start()

    def close(self) -> None:
        """Stop after the rows that are away; the next start goes on from there."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def wake(self) -> None:
        """Look at once: a job was queued."""
        self._wake.set()

    def drop(self, job_id: str) -> None:
        """Stop answering a job that has ended, and put together what is finished of it."""
        self._gone.add(job_id)
        self._wake.set()

    def folder(self, job_id: str) -> JobFolder:
        """Where a job's files lie."""
        return JobFolder(self._home.jobs / job_id)

    def expiry(self) -> datetime:
        """When the result of a job that ends now is removed."""
        return now() + timedelta(hours=self._settings.keep_hours)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                asyncio.run(self._main())
            except Exception:
                log.exception("the jobs stopped, will begin again")
                self._stop.wait(LOOK_SECONDS)

    async def _main(self) -> None:
        lanes = Lanes(self._home.lanes, tls_of_ray())
        self._journal = JournalWriter(self._home.journal)
        self._limits = ChunkLimits(self._book, self._journal)
        self._runner = Runner(lanes, self._histories, self._settings, self._serving, self._rouse)
        keeper = asyncio.create_task(lanes.keep())
        workers: dict[str, asyncio.Task[None]] = {}
        swept = -SWEEP_SECONDS
        self._used = await asyncio.to_thread(size_of, self._home.jobs)  # known before a first chunk
        while not self._stop.is_set():
            self._wake.clear()
            try:
                for algorithm in self._jobs.algorithms():
                    if algorithm not in workers or workers[algorithm].done():
                        workers[algorithm] = asyncio.create_task(self._work(algorithm))
                due = time.monotonic() - swept > SWEEP_SECONDS
                await self._sweep(all_of_them=due)
                swept = time.monotonic() if due else swept
            except Exception:
                log.exception("the jobs could not be looked at, will repeat")
                await asyncio.sleep(LOOK_SECONDS)
            await asyncio.to_thread(self._wake.wait, LOOK_SECONDS)
        await asyncio.gather(*workers.values(), return_exceptions=True)
        keeper.cancel()
        self._journal.close()

    async def _work(self, algorithm: str) -> None:
        """Turns of one algorithm's jobs, until none is open."""
        after = ""
        while not self._stop.is_set():
            try:
                job = self._jobs.next(algorithm, after)
                if job is None:
                    return
                after = job.department
                await self._turn(job)
            except Exception:  # the database is away: nothing is lost, the turn comes again
                log.exception("a turn of %s failed", algorithm)
                await asyncio.sleep(LOOK_SECONDS)

    async def _turn(self, job: BatchJob) -> None:
        self._busy.add(job.id)
        try:
            await self._chunk(job)
            self._since.pop(job.id, None)
        except Stopped:
            pass
        except Unavailable as error:
            await self._wait(job, error)
        except CityBrainError as error:
            self._end(job, error)
        except Exception:
            log.exception("the job %s met a fault", job.id)
            await self._wait(job, Unavailable("The platform failed; see logs/control.log."))
        finally:
            self._busy.discard(job.id)

    async def _chunk(self, job: BatchJob) -> None:
        folder = self.folder(job.id)
        done = job.done
        if done < job.rows:
            number = done // job.chunk
            part = folder.part(number) or await self._answer(job, number, folder)
            self._meter(job, part)
            rows = min(job.chunk, job.rows - done)
            done += rows
            failed = job.failed + rows - part.answered
            self._jobs.progress(job.id, done, failed, problems(job.problems, part))
        if done == job.rows:
            output = TASKS.get(job.task).Output
            await asyncio.to_thread(folder.close, job.format, output)
            self._jobs.ended(job.id, "done", self.expiry())

    async def _answer(self, job: BatchJob, number: int, folder: JobFolder) -> Part:
        route = self._allowed(job)
        if self._used > self._settings.disk:
            raise Unavailable("The disk space for jobs is used up; older results leave it.")
        if job.state == "waiting":
            self._jobs.started(job.id)
        if job.id not in self._since:  # a chunk that is tried again was admitted before
            at = time.time_ns() // 1_000_000
            self._journal.admit(
                Admitted(
                    _request_id(job, number), at, job.asked_by, job.department, job.algorithm,
                    job.purpose, JOB,
                )
            )  # fmt: skip
            self._journal.flush()
        permit = self._directory.permit(self._key(job), job.algorithm, job.purpose)
        self._limits.reserve(job, permit, min(job.chunk, job.rows - job.done))
        first = number * job.chunk + 1
        rows = await asyncio.to_thread(self._runner.rows, folder, number, first, route)
        trouble = self._trouble.setdefault(job.id, Trouble())
        lines, answered, worked = await self._runner.answer(
            rows, route, trouble, lambda: self._stop.is_set() or job.id in self._gone
        )
        del self._trouble[job.id]
        return await asyncio.to_thread(
            folder.write, number, len(answered), route.version, int(worked * 1e6),
            sum(reply.amount for reply in answered), b"".join(lines),
        )  # fmt: skip

    def _allowed(self, job: BatchJob) -> Route:
        """Where the job's rows go; refused when its key, grant or algorithm has ended."""
        self._directory.load()
        permit = self._directory.permit(self._key(job), job.algorithm, job.purpose)
        route = self._directory.route(Ref(job.algorithm, job.target), "", job.department)
        permit.check_level(route, self._directory.level(route))
        return route

    def _key(self, job: BatchJob) -> Key:
        """The key that asked for it, or BadKey when that has ended."""
        key = self._directory.snapshot.by_id.get(job.asked_by)
        if key is None:
            raise BadKey(
                f"The key {job.asked_by} that asked for this job has ended.",
                hint="Submit the job again with a living key.",
            )
        return key

    def _meter(self, job: BatchJob, part: Part) -> None:
        """Write the part into the usage journal, before anybody is told that it is done.

        A kill in between repeats this line under the same request id, and the ledger counts it once.
        """
        settled = Settled(
            _request_id(job, part.number), time.time_ns() // 1_000_000, job.asked_by,
            job.department, job.algorithm, job.purpose, JOB, part.version,
            200 if part.answered else 422, part.answered, part.micros, 0, part.micros, 1,
            unit=TASKS.get(job.task).unit, amount=part.amount,
        )  # fmt: skip
        self._journal.settle(settled)
        self._journal.flush()
        self._limits.settle(job, settled)
        if (file := self._journal.unsynced) is not None:
            os.fdatasync(file)
            self._journal.synced()

    async def _wait(self, job: BatchJob, error: CityBrainError) -> None:
        since = self._since.setdefault(job.id, time.monotonic())
        if time.monotonic() - since > self._settings.patience:
            self._end(job, error)
            return
        if job.error.get("message") != error.message:
            self._jobs.waits(job.id, _told(error))
        await asyncio.sleep(LOOK_SECONDS / 2)

    def _end(self, job: BatchJob, error: CityBrainError) -> None:
        self._limits.release(job)
        self._jobs.ended(job.id, "failed", self.expiry(), _told(error))
        self.drop(job.id)

    async def _sweep(self, *, all_of_them: bool) -> None:
        """Put together what ended early, remove what expired and what no row speaks of."""
        if all_of_them:
            self._used = await asyncio.to_thread(size_of, self._home.jobs)
        every = [path.name for path in self._home.jobs.iterdir()] if all_of_them else []
        for name in every or list(self._gone):
            root, folder = self._home.jobs / name, self.folder(name)
            if name in self._busy or not root.exists():
                continue
            try:
                job = self._jobs.get(name)
            except RowNotFound:
                if time.time() - root.stat().st_mtime > ORPHAN_SECONDS:
                    await asyncio.to_thread(shutil.rmtree, root, ignore_errors=True)
                continue
            if job.state in OPEN_JOB:
                continue
            if job.expires_at is not None and job.expires_at <= now():
                await asyncio.to_thread(shutil.rmtree, root, ignore_errors=True)
            elif folder.is_open:
                if last := folder.last():  # a kill may have come before its line in the journal
                    self._meter(job, last)
                output = TASKS.get(job.task).Output
                await asyncio.to_thread(folder.close, job.format, output)
            self._gone.discard(name)
            self._since.pop(name, None)
            self._trouble.pop(name, None)


def _request_id(job: BatchJob, number: int) -> str:
    """The chunk's name in the ledger: always the same, so that it is counted once."""
    return f"{job.id}{number:020d}"


def _told(error: CityBrainError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "hint": error.hint}
