"""Commands about batch jobs: submit, list, show, cancel, result."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from citybrain.core.names import parse_ref
from citybrain.core.schemas import BatchJob
from citybrain.core.schemas.jobs import ResultFormat
from citybrain.platform.cli.output import (
    JsonFlag,
    client,
    existing,
    progress,
    screen,
    show_json,
    show_table,
)
from citybrain.sdk import CityBrain

JobId = Annotated[str, typer.Argument(help="A job's id.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    jobs = typer.Typer(
        help="Many rows at once: answered when nobody else waits.", no_args_is_help=True
    )
    jobs.command("submit")(submit)
    jobs.command("list")(list_jobs)
    jobs.command("show")(show)
    jobs.command("cancel")(cancel)
    jobs.command("result")(result)
    app.add_typer(jobs, name="jobs")


def submit(
    name: Annotated[str, typer.Argument(help="NAME, NAME@alias or NAME@version.")],
    files: Annotated[
        list[Path], typer.Argument(help="A table (.jsonl, .csv, .parquet), a .zip, or media files.")
    ],
    purpose: Annotated[str, typer.Option(help="Why, for a key of several purposes.")] = "",
    form: Annotated[ResultFormat, typer.Option("--result", help="jsonl or parquet.")] = "jsonl",
    out: Annotated[Path | None, typer.Option(help="With --wait: write the result here.")] = None,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Watch it until it has ended.")] = False,
    json: JsonFlag = False,
) -> None:
    """Hand in rows for an algorithm.

    Example: `citybrain jobs submit hotline-router letters.csv --wait --out answers.jsonl`
    """
    paths = [existing(path, "file") for path in files]
    with client() as city:
        job = city.submit_job(str(parse_ref(name)), paths, purpose=purpose, result=form)
        if wait or out:
            job = _watched(city, job, hidden=json)
            if out:
                city.job_result(job.id, out.expanduser())
    if json:
        show_json(job)
        return
    _say(job)
    if out:
        screen.print(f"Its result is in {out}.")
    elif not wait:
        screen.print(f"Watch it with: citybrain jobs show {job.id} --wait")


def _watched(city: CityBrain, job: BatchJob, *, hidden: bool) -> BatchJob:
    """The job when it has ended; Ctrl-C leaves it running."""
    what = f"job {job.id}"
    with progress(what, hidden=hidden) as watch, contextlib.suppress(KeyboardInterrupt):
        return city.wait_for_job(
            job.id,
            lambda seen: watch(seen.done / seen.rows, f"{what}: {seen.done}/{seen.rows} rows"),
        )
    return city.job(job.id)


def _say(job: BatchJob) -> None:
    name = f"{job.algorithm}@{job.target}" if job.target else job.algorithm
    screen.print(f"Job {job.id} on {name} is {job.state}: {job.done} of {job.rows} rows done, "
                 f"{job.failed} with an error.")  # fmt: skip
    if job.eta_seconds is not None:
        screen.print(f"About {job.eta_seconds:.0f} s left.")
    if job.error:
        screen.print(f"{job.error['message']} {job.error['hint']}".strip(), markup=False)
    for problem in job.problems:
        screen.print(f"  row {problem['row']}: {problem['message']}", markup=False)


def list_jobs(
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50, *, json: JsonFlag = False
) -> None:
    """Jobs of your department, newest first; an admin sees all.

    Example: `citybrain jobs list`
    """
    with client() as city:
        found = city.jobs(limit)
    if json:
        show_json(found)
        return
    show_table(
        "Jobs", ["job", "algorithm", "department", "purpose", "state", "rows", "done", "failed", "submitted"],
        [[j.id, f"{j.algorithm}@{j.target}" if j.target else j.algorithm, j.department, j.purpose,
          j.state, j.rows, j.done, j.failed, f"{j.created_at:%Y-%m-%d %H:%M:%S}"] for j in found],
        empty="No jobs yet. Submit one with: citybrain jobs submit NAME FILE",
    )  # fmt: skip


def show(
    job_id: JobId,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Watch it until it has ended.")] = False,
    json: JsonFlag = False,
) -> None:
    """How far a job is, the first rows that failed, and why it ended.

    Example: `citybrain jobs show 3f1c9a7e2b40 --wait`
    """
    with client() as city:
        job = city.job(job_id)
        if wait:
            job = _watched(city, job, hidden=json)
    if json:
        show_json(job)
        return
    _say(job)


def cancel(job_id: JobId, *, json: JsonFlag = False) -> None:
    """End a job; rows that are finished stay to be taken.

    Example: `citybrain jobs cancel 3f1c9a7e2b40`
    """
    with client() as city:
        job = city.cancel_job(job_id)
    if json:
        show_json(job)
        return
    _say(job)


def result(
    job_id: JobId,
    out: Annotated[Path | None, typer.Option(help="Where to; else named after the job.")] = None,
    *,
    json: JsonFlag = False,
) -> None:
    """Download the result of a job that has ended.

    Example: `citybrain jobs result 3f1c9a7e2b40 --out answers.jsonl`
    """
    with client() as city:
        job = city.job(job_id)
        path = city.job_result(job_id, (out or Path(f"{job_id}.{job.format}")).expanduser())
    if json:
        show_json({"file": str(path), "rows": job.done, "failed": job.failed})
        return
    screen.print(f"{job.done} rows in {path}.")
