"""Batch jobs: hand in files, look, cancel, take the result. A job is its department's own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any, get_args

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from citybrain.core.errors import BadJson, InvalidInput, TooLarge
from citybrain.core.names import Ref, parse_ref
from citybrain.core.schemas import Actor, BatchJob, Key
from citybrain.core.schemas.jobs import ResultFormat
from citybrain.platform.api.access import Plane, may, may_key
from citybrain.platform.policy import whose
from citybrain.platform.wiring import ControlPlane
from citybrain.storage.records import audit

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
MAX_FILES = 1000
KINDS = {"jsonl": "application/jsonl", "parquet": "application/vnd.apache.parquet"}
FORM = {
    "type": "object",
    "required": ["algorithm", "file"],
    "properties": {
        "algorithm": {"type": "string", "description": "name, name@alias or name@7"},
        "purpose": {"type": "string"},
        "result": {"type": "string", "enum": list(KINDS), "default": "jsonl"},
        "file": {"type": "array", "items": {"type": "string", "format": "binary"}},
    },
}


@router.post(
    "",
    status_code=202,
    openapi_extra={"requestBody": {"content": {"multipart/form-data": {"schema": FORM}}}},
)
async def submit(
    request: Request, plane: Plane, key: Annotated[Key, may_key("job.submit")]
) -> BatchJob:
    """Queue a job: `algorithm`, one table (JSONL, CSV, Parquet) or files as `file`, `purpose`."""
    most = plane.truths.settings.jobs.max_bytes
    length = request.headers.get("content-length", "")
    if not length.isdigit():
        raise InvalidInput("An upload says its Content-Length first.")
    if int(length) > most:
        raise TooLarge(f"The upload has {int(length)} bytes; a job takes at most {most}.")
    try:
        async with request.form(max_files=MAX_FILES, max_fields=10) as form:
            return await run_in_threadpool(_submit, plane, key, form, request)
    except HTTPException as error:  # Starlette's word for a form that it cannot read
        raise BadJson(f"The multipart form cannot be read: {error.detail}") from error


def _submit(plane: ControlPlane, key: Key, form: FormData, request: Request) -> BatchJob:
    ref = parse_ref(_text(form, "algorithm"))
    purpose = _text(form, "purpose") or request.headers.get("x-purpose", "")
    wanted: Any = _text(form, "result") or "jsonl"
    if wanted not in get_args(ResultFormat):
        raise InvalidInput(f"`result` is jsonl or parquet, not {wanted[:40]!r}.")
    files = [one for one in form.getlist("file") if isinstance(one, UploadFile)]
    if not files:
        raise InvalidInput("There is no `file` in the form.", hint="curl -F file=@rows.jsonl …")
    return _take(plane, key, ref, purpose, wanted, files)


def _take(
    plane: ControlPlane, key: Key, ref: Ref, purpose: str, form: ResultFormat,
    files: list[UploadFile],
) -> BatchJob:  # fmt: skip
    with tempfile.TemporaryDirectory(dir=plane.truths.home.work) as folder:
        work = Path(folder)
        (work / "upload").mkdir()
        for number, file in enumerate(files):
            with (work / "upload" / f"{number:06d}").open("xb") as out:
                while chunk := file.file.read(1 << 20):
                    out.write(chunk)
        names = [(file.filename or "rows")[-200:] for file in files]
        return plane.jobs.submit(work, names, key, ref, purpose, form)


def _text(form: FormData, name: str) -> str:
    found = form.get(name, "")
    return found if isinstance(found, str) else ""


@router.get("")
def list_jobs(
    plane: Plane, actor: Annotated[Actor, may("job.read")], limit: int = 100
) -> list[BatchJob]:
    """Jobs of the caller's department, newest first; an admin sees all."""
    return plane.truths.jobs.find(whose(actor, "job.read"), limit=max(1, min(limit, 500)))


@router.get("/{job_id}")
def get_job(job_id: str, plane: Plane, actor: Annotated[Actor, may("job.read", "job")]) -> BatchJob:
    """One job: how far it is, the first rows that failed, and why it ended."""
    return plane.truths.jobs.get(job_id)


@router.delete("/{job_id}")
def cancel_job(
    job_id: str, plane: Plane, actor: Annotated[Actor, may("job.cancel", "job")]
) -> BatchJob:
    """End a job; the rows that are finished stay to be taken."""
    return plane.jobs.cancel(job_id, actor)


@router.get("/{job_id}/result")
def job_result(
    job_id: str, plane: Plane, actor: Annotated[Actor, may("job.result", "job")]
) -> FileResponse:
    """The result: a line or row for each row, in their order, with its answer or its error."""
    job = plane.truths.jobs.get(job_id)
    path = plane.jobs.result(job)
    if job.department != actor.department:  # who looks at another department's data is written down
        audit.write(plane.truths.database, actor, "job.read", job.algorithm, job=job.id)
    name = f"{job.algorithm}-{job.id}.{job.format}"
    return FileResponse(path, media_type=KINDS[job.format], filename=name)
