"""Batch jobs at the doors: take one in with its files, cancel it, hand its result out."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from citybrain.core.errors import Conflict, InvalidInput, Overloaded, RowNotFound
from citybrain.core.home import Home
from citybrain.core.names import Ref
from citybrain.core.schemas import Actor, BatchJob, Key
from citybrain.core.schemas.jobs import OPEN_JOB, ResultFormat
from citybrain.core.settings import Settings
from citybrain.serving.gateway.directory import Directory
from citybrain.serving.jobs.folder import size_of
from citybrain.serving.jobs.opening import fields_of, kind_of, open_upload
from citybrain.serving.jobs.turns import JobTurns
from citybrain.storage.records.jobs import Jobs


class JobDesk:
    """What departments ask of jobs; the turns do the work."""

    def __init__(
        self, jobs: Jobs, directory: Directory, turns: JobTurns, home: Home, settings: Settings
    ) -> None:
        self._jobs = jobs
        self._directory = directory
        self._turns = turns
        self._home = home
        self._settings = settings.jobs
        self._max_line = settings.serving.max_json

    def start(self) -> None:
        """Begin to work, with what an earlier process left."""
        self._turns.start()

    def close(self) -> None:
        """Stop after the rows that are away."""
        self._turns.close()

    def submit(
        self, work: Path, names: list[str], key: Key, ref: Ref, stated: str, form: ResultFormat
    ) -> BatchJob:
        """Queue a job for the files in `work/upload`, after everything that can be checked."""
        self._directory.load()
        permit = self._directory.permit(key, ref.algorithm, stated)
        purpose, route = permit.purpose, self._directory.route(ref)
        permit.check_level(route, self._directory.level(route))
        if route.plan is not None:
            raise InvalidInput(
                f"{ref.algorithm} is a pipeline, and jobs run on the replicas of one algorithm.",
                hint="Run a job for each of its steps, or call the pipeline item by item.",
            )
        if size_of(self._home.jobs) > self._settings.disk:
            raise Overloaded(
                f"The files of all jobs have {self._settings.disk >> 20} MB already.",
                hint="Try again when older results were removed.",
            )
        kind = kind_of(names, route.task.media)
        files = kind in ("zip", "files")
        chunk = self._settings.chunk_files if files else self._settings.chunk
        fields, wrap = fields_of(route.task.Input)
        request = {
            "kind": kind, "names": names, "chunk": chunk, "fields": fields, "wrap": wrap,
            "max_rows": self._settings.max_rows, "max_line": self._max_line,
        }  # fmt: skip
        rows = open_upload(work, request, disk=4 * self._settings.max_bytes)
        job_id = uuid.uuid4().hex[:12]
        folder = self._home.jobs / job_id
        folder.mkdir(mode=0o700)
        for name in ("in", "media"):
            if (work / name).exists():
                (work / name).rename(folder / name)
        actor = Actor.of(key)
        try:
            job = self._jobs.submit(
                job_id, ref, route.manifest.task, purpose, form, rows, chunk, actor,
                most=self._settings.max_open,
            )  # fmt: skip
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._turns.wake()
        return job

    def cancel(self, job_id: str, actor: Actor) -> BatchJob:
        """End a job; what is finished of it stays for a while."""
        found = self._jobs.cancel(job_id, actor, self._turns.expiry())
        self._turns.drop(job_id)
        return found

    def result(self, job: BatchJob) -> Path:
        """The file of an ended job; Conflict while there is none yet, RowNotFound when it is gone."""
        folder = self._turns.folder(job.id)
        path = folder.result(job.format)
        if job.state in OPEN_JOB or (folder.is_open and not path.exists()):
            raise Conflict(
                f"The job {job.id} is {job.state}; its result is not put together yet.",
                hint=f"Look at it: citybrain jobs show {job.id}",
            )
        if not path.exists():
            raise RowNotFound(
                f"The result of the job {job.id} was removed.",
                hint="How long results are kept: citybrain retention",
            )
        return path
