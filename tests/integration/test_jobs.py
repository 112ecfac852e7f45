"""Batch jobs on a real platform: every row once, in order, metered; bad rows are their own."""

import json
import sqlite3
import time
import uuid

import httpx
import pandas as pd
import pytest
from pyarrow import parquet
from support import command, wait_for

from citybrain.core.errors import (
    AlgorithmNotFound,
    BadData,
    BadKey,
    Conflict,
    InvalidInput,
    NotGranted,
    RowNotFound,
    error_from,
)
from citybrain.core.schemas import NewGrant, NewKey

pytestmark = pytest.mark.platform
LONG = 40_000


@pytest.fixture(scope="module")
def features(platform):
    with platform.client() as city:
        return city.algorithm("crowd-level").example["inputs"][0]["features"]


@pytest.fixture(scope="module")
def long(features, tmp_path_factory):
    """Rows enough that something can happen meanwhile."""
    path = tmp_path_factory.mktemp("long") / "rows.jsonl"
    path.write_text((json.dumps({"features": features}) + "\n") * LONG)
    return path


@pytest.fixture
def department(platform):
    """A department with a key and a grant, and how to take them away."""
    name = f"office-{uuid.uuid4().hex[:8]}"
    with platform.client() as admin:
        admin.add_department(name)
        key = admin.add_key(NewKey(department=name))
        grant = admin.add_grant(NewGrant(department=name, algorithm="crowd-level"))
        with platform.client(key.secret) as city:
            yield city, key, grant


def ledger(platform, job):
    """Rows answered and ledger rows of one job."""
    with sqlite3.connect(f"file:{platform.home.database}?mode=ro", uri=True) as connection:
        query = "select coalesce(sum(rows), 0), count(*) from requests where request_id like ?"
        return connection.execute(query + " and state != 'VOID'", (f"{job.id}%",)).fetchone()


def answers(city, job, folder):
    """The lines of a result, which are checked to be every row once and in order."""
    path = city.job_result(job.id, folder / f"{job.id}.jsonl")
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["row"] for line in found] == list(range(1, len(found) + 1))
    return found


def running(city, path):
    """A job in the middle of its work."""
    job = city.submit_job("crowd-level", path)
    return wait_for(lambda: (seen := city.job(job.id)).done and seen, 60, pause=0.02)


def test_a_job_answers_as_a_call_does_and_its_bad_rows_are_their_own(
    department, features, platform, tmp_path
):
    city, _, _ = department
    rows = [json.dumps({"features": features | {"hour": hour}}) for hour in range(7, 19)]
    rows[3:5] = ['{"features": {"x": 1}}', "no json"]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    job = city.wait_for_job(city.submit_job("crowd-level@champion", tmp_path / "rows.jsonl").id)
    assert (job.state, job.rows, job.done, job.failed) == ("done", 12, 12, 2)
    assert [(p["row"], p["code"]) for p in job.problems] == [(4, "bad_tensor"), (5, "bad_json")]
    found = answers(city, job, tmp_path)
    whole = [n for n in range(12) if n not in (3, 4)]
    called = city.predict("crowd-level", [json.loads(rows[n]) for n in whole])["results"]
    assert [found[n]["output"] for n in whole] == called
    wait_for(lambda: ledger(platform, job) == (10, 1), 10)
    noted = [e for e in platform.audit() if e.detail.get("job") == job.id]
    assert [(e.action, e.detail["rows"]) for e in noted] == [("job.submit", 12)]


def test_csv_and_parquet_are_taken_and_parquet_is_given(department, features, tmp_path):
    city, _, _ = department
    table = pd.DataFrame([features | {"hour": hour} for hour in range(7, 15)])
    table.to_csv(tmp_path / "rows.csv", index=False)
    table.to_parquet(tmp_path / "rows.parquet")
    by_csv = city.submit_job("crowd-level", tmp_path / "rows.csv")
    by_parquet = city.submit_job("crowd-level", tmp_path / "rows.parquet", result="parquet")
    outputs = [line["output"] for line in answers(city, city.wait_for_job(by_csv.id), tmp_path)]
    job = city.wait_for_job(by_parquet.id)
    given = parquet.read_table(city.job_result(job.id, tmp_path / "out.parquet")).to_pylist()
    assert [row["row"] for row in given] == list(range(1, 9))
    assert [row["label"] for row in given] == [output["label"] for output in outputs]
    assert [dict(row["probabilities"]) for row in given] == [o["probabilities"] for o in outputs]


def test_a_cancelled_job_stops_and_keeps_what_is_finished(department, long, platform, tmp_path):
    city, _, _ = department
    job = running(city, long)
    with pytest.raises(Conflict, match="not put together"):
        city.job_result(job.id, tmp_path / "early")
    began = time.monotonic()
    assert city.cancel_job(job.id).state == "cancelled"
    found = wait_for(lambda: answers(city, job, tmp_path), 5)
    assert time.monotonic() - began < 3
    assert job.done <= len(found) < LONG
    wait_for(lambda: ledger(platform, job)[0] == len(found), 10)
    with pytest.raises(Conflict, match="has ended"):
        city.cancel_job(job.id)


@pytest.mark.parametrize("what", ["grant", "key"])
def test_a_job_ends_with_the_grant_or_key_that_it_was_asked_with(
    what, department, long, platform, tmp_path
):
    city, key, grant = department
    job = running(city, long)
    with platform.client() as admin:
        if what == "grant":
            admin.revoke_grant(grant.id)
        else:
            admin.revoke_key(key.id)
        ended = wait_for(lambda: (seen := admin.job(job.id)).state == "failed" and seen, 20)
        error = error_from(ended.error["code"], ended.error["message"])
        assert isinstance(error, NotGranted if what == "grant" else BadKey)
        found = wait_for(lambda: answers(admin, job, tmp_path), 5)
        assert job.done <= ended.done == len(found) < LONG
        wait_for(lambda: ledger(platform, job)[0] == len(found), 10)
        assert any(e.action == "job.read" and e.detail["job"] == job.id for e in platform.audit())


def test_another_department_sees_nothing_of_a_job(department, features, platform, tmp_path):
    city, _, _ = department
    (tmp_path / "rows.jsonl").write_text(json.dumps({"features": features}))
    job = city.submit_job("crowd-level", tmp_path / "rows.jsonl")
    with platform.client() as admin:
        admin.add_department(f"x{job.id}")
        other = admin.add_key(NewKey(department=f"x{job.id}", role="developer"))
        assert job.id in {one.id for one in admin.jobs()}
    with platform.client(other.secret) as stranger:
        assert stranger.jobs() == []
        for ask in (stranger.job, stranger.cancel_job):
            with pytest.raises(RowNotFound):
                ask(job.id)
        with pytest.raises(RowNotFound):
            stranger.job_result(job.id, tmp_path / "stolen")
        with pytest.raises(NotGranted):
            stranger.submit_job("crowd-level", tmp_path / "rows.jsonl")
    assert [one.id for one in city.jobs()] == [job.id]


def test_what_cannot_be_a_job_is_refused_with_a_reason(department, platform, tmp_path):
    city, key, _ = department
    (tmp_path / "rows.csv").write_text("mood,features\n1,2\n")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "rows.xlsx").write_text("x")
    for name in ("empty.jsonl", "rows.xlsx"):
        with pytest.raises(BadData):
            city.submit_job("crowd-level", tmp_path / name)
    with platform.client() as admin, pytest.raises(AlgorithmNotFound):
        admin.submit_job("nothing-here", tmp_path / "rows.csv")
    post = httpx.Client(
        base_url=platform.url, headers={"authorization": f"Bearer {key.secret}"}, trust_env=False
    ).post
    file = {"file": ("rows.jsonl", b"{}")}
    for data, files, code in (
        ({"algorithm": "crowd-level", "result": "xml"}, file, InvalidInput.code),
        ({"algorithm": "crowd-level"}, {"data": file["file"]}, InvalidInput.code),
        ({"algorithm": "../x"}, file, InvalidInput.code),
        ({"algorithm": "crowd-level", "purpose": "sport"}, file, NotGranted.code),
    ):
        assert post("/v1/jobs", data=data, files=files).json()["code"] == code
    endless = post("/v1/jobs", content=iter([b"x"])).json()
    assert (endless["code"], "Content-Length" in endless["detail"]) == (InvalidInput.code, True)
    assert httpx.get(f"{platform.url}/v1/jobs", trust_env=False).status_code == 401
    assert city.jobs() == []


def test_the_command_line_submits_waits_and_writes_the_result(platform, features, tmp_path):
    path = tmp_path / "rows.csv"
    pd.DataFrame([features] * 3).to_csv(path, index=False)
    home, out = platform.home.root, tmp_path / "out.jsonl"
    done = command(home, "jobs", "submit", "crowd-level", str(path), "--out", str(out), "--json")
    job = json.loads(done.stdout)
    assert (job["state"], job["done"]) == ("done", 3)
    assert len(out.read_text().splitlines()) == 3
    assert job["id"] in command(home, "jobs", "list").stdout
