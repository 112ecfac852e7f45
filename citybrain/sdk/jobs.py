"""The client's calls about batch jobs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from citybrain.core.errors import error_from
from citybrain.core.schemas import BatchJob
from citybrain.core.schemas.jobs import OPEN_JOB, ResultFormat
from citybrain.sdk.transport import LOOK_SECONDS, Transport


class JobCalls(Transport):
    """Many rows handed in as files, answered when nobody else waits."""

    def submit_job(
        self, name: str, files: Path | list[Path], *, purpose: str = "",
        result: ResultFormat = "jsonl",
    ) -> BatchJob:  # fmt: skip
        """Queue a job: one table (JSONL, CSV, Parquet), or images or sounds, also as a zip."""
        paths = [files] if isinstance(files, Path) else files
        fields = {"algorithm": name, "purpose": purpose, "result": result}
        with contextlib.ExitStack() as opened:
            parts = [("file", (p.name, opened.enter_context(p.open("rb")))) for p in paths]
            return self._one(BatchJob, "POST", "/v1/jobs", data=fields, files=parts)

    def jobs(self, limit: int = 100) -> list[BatchJob]:
        """Jobs of this department, newest first; an admin sees all."""
        return self._many(BatchJob, "/v1/jobs", limit=limit)

    def job(self, job_id: str) -> BatchJob:
        """One job, and how far it is."""
        return self._one(BatchJob, "GET", f"/v1/jobs/{job_id}")

    def wait_for_job(
        self, job_id: str, watch: Callable[[BatchJob], object] = lambda _: None
    ) -> BatchJob:
        """The job when it has ended; a failed one raises what it failed with."""
        while (found := self.job(job_id)).state in OPEN_JOB:
            watch(found)
            time.sleep(LOOK_SECONDS)
        watch(found)
        if found.state == "failed":
            told = found.error
            raise error_from(told["code"], told["message"], told["hint"])
        return found

    def cancel_job(self, job_id: str) -> BatchJob:
        """End a job; what is finished of it can still be taken."""
        return self._one(BatchJob, "DELETE", f"/v1/jobs/{job_id}")

    def job_result(self, job_id: str, out: Path) -> Path:
        """Write the result of an ended job to a file, whole or not at all."""
        return self._download(f"/v1/jobs/{job_id}/result", out)
