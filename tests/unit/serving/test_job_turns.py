"""The turns of jobs over a real database, journal, ledger and lane; only the model is a function."""

import os
import shutil
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import msgspec
import pytest

from citybrain.core.home import Home
from citybrain.core.names import Ref
from citybrain.core.schemas import Actor, NewDepartment, NewGrant, NewKey
from citybrain.core.settings import JobSettings, Settings
from citybrain.platform.policy import allows
from citybrain.serving.gateway.directory import Directory
from citybrain.serving.jobs import turns as module
from citybrain.serving.jobs.folder import JobFolder
from citybrain.serving.jobs.turns import JobTurns
from citybrain.serving.lane import LaneServer
from citybrain.serving.lane_doors import UnixDoor
from citybrain.serving.metering.book import Book
from citybrain.serving.wire import Reply, Served
from citybrain.storage.database import Database
from citybrain.storage.moments import now
from citybrain.storage.records.deployments import Deployments
from citybrain.storage.records.jobs import Jobs
from citybrain.storage.records.people import People
from citybrain.storage.records.usage import Usage

ADMIN = Actor(key="k0", department="platform", role="admin")
ASKER = Actor(key="k1", department="tourism", role="department")
MANIFEST = {
    "name": "crowd", "title": {"zh": "客流", "en": "Crowd"}, "task": "tabular-classification",
    "runtime": "onnx", "weights": "m.onnx", "domain": "tourism", "owner": "tourism",
    "licence": "MIT", "options": {"features": ["hour"], "labels": ["a", "b"]},
}  # fmt: skip
ANSWER = {"label": "a", "probabilities": {"a": 1.0, "b": 0.0}}


@pytest.fixture
def city(monkeypatch):
    """A home with a department, its key and grant, a deployed algorithm and its lane."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(module, "SWEEP_SECONDS", 0.05)
    root = Path(tempfile.mkdtemp(prefix="cb-"))  # short: sockets lie in it
    home = Home(root).make()
    database = Database.at(home.database)
    database.migrate()
    people, deployments = People(database), Deployments(database)
    people.add_department(NewDepartment(name="tourism"), ADMIN)
    people.add_key(NewKey(department="tourism"), "k1", "digest", ADMIN)
    grant = people.add_grant(NewGrant(department="tourism", algorithm="crowd"), ADMIN)
    deployments.want("crowd", "champion", 1, ADMIN)
    running = {"app": "crowd.1", "version": 4, "manifest": MANIFEST}
    deployments.saw("crowd", "champion", state="running", version=4, running=running)
    usage = Usage(database, ZoneInfo("UTC"))
    found = SimpleNamespace(
        home=home, database=database, people=people, grant=grant, jobs=Jobs(database),
        usage=usage, seen=[], lane=None, started=[],
    )  # fmt: skip

    def answer(calls, _errand):
        found.seen += calls
        body = msgspec.json.encode({"version": 4, "results": [ANSWER]})
        return Served([Reply(body, -1, 1, "", "") for _ in calls], 0.0, 0.001 * len(calls))

    def announce():
        found.lane = LaneServer(UnixDoor(home.lanes, "crowd.1"), answer)
        found.lane.announce()

    def turns(**options):
        settings = Settings(home=root, jobs=JobSettings(**options))
        directory = Directory(database, b"pepper", allows, refresh=1.0)
        book = Book(home.limits)
        book.enter(home.writers)
        made = JobTurns(found.jobs, directory, None, home, settings, book)
        made.start()
        found.started.append(made)
        return made

    found.announce, found.turns = announce, turns
    yield found
    for made in found.started:
        made.close()
    if found.lane:
        found.lane.withdraw(0.1)
    database.close()
    shutil.rmtree(root)


def submit(city, job_id="job000000001", rows=7, chunk=3, form="jsonl"):
    folder = city.home.jobs / job_id / "in"
    folder.mkdir(parents=True)
    lines = [b'i{"features":{"hour":%d}}\n' % hour for hour in range(rows)]
    for number in range(0, rows, chunk):
        path = folder / f"{number // chunk:06d}.jsonl"
        path.write_bytes(b"".join(lines[number : number + chunk]))
    ref, task = Ref("crowd"), "tabular-classification"
    city.jobs.submit(job_id, ref, task, "operation", form, rows, chunk, ASKER, most=9)
    return job_id


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def ended(city, job_id):
    return until(lambda: (j := city.jobs.get(job_id)).state not in ("waiting", "running") and j)


def counted(city, job_id, number):
    city.usage.load(city.home.journal)
    row = city.usage.request(f"{job_id}{number:020d}")
    return row and (row["state"], row["rows"], row["version"], row["door"], row["department"])


def test_a_job_is_answered_counted_and_put_together(city):
    city.announce()
    city.turns()
    job = ended(city, submit(city))
    assert (job.state, job.done, job.failed) == ("done", 7, 0)
    assert [p.name for p in (city.home.jobs / job.id).iterdir()] == ["result.jsonl"]
    lines = (city.home.jobs / job.id / "result.jsonl").read_bytes().splitlines()
    assert [msgspec.json.decode(line) for line in lines] == [
        {"row": n, "version": 4, "output": ANSWER} for n in range(1, 8)
    ]
    served = [counted(city, job.id, n) for n in range(3)]
    assert served == [("SERVED", rows, 4, "job", "tourism") for rows in (3, 3, 1)]
    day = city.usage.days(department="tourism")[0]
    assert (day.requests, day.rows) == (3, 7)
    assert city.usage.minutes() == []  # nobody waited for these


@pytest.mark.parametrize("written", ["part", "part and journal"])
def test_a_part_that_was_written_before_a_kill_is_not_answered_again(city, written):
    """The state after a kill between the part and the progress, before or after the journal."""
    job_id = submit(city)
    line = msgspec.json.encode({"row": 1, "error": {"code": "bad_json", "message": "no"}}) + b"\n"
    JobFolder(city.home.jobs / job_id).write(0, 2, 3, 55, 2.0, line * 3)
    if written == "part and journal":
        from citybrain.storage.journal import JournalWriter, Settled

        writer = JournalWriter(city.home.journal)
        writer.settle(Settled(f"{job_id}{0:020d}", 0, "k1", "tourism", "crowd", "operation",
                              "job", 3, 200, 2, 55))  # fmt: skip
        writer.close()
        city.usage.load(city.home.journal)
    city.announce()
    city.turns()
    job = ended(city, job_id)
    assert (job.done, job.failed, len(city.seen)) == (7, 1, 4)
    assert counted(city, job_id, 0) == ("SERVED", 2, 3, "job", "tourism")
    assert sum(day.rows for day in city.usage.days()) == 6
    assert sum(day.requests for day in city.usage.days()) == 3


def test_what_a_cancelled_job_had_finished_before_a_kill_is_counted_and_given(city):
    job_id = submit(city)
    folder = JobFolder(city.home.jobs / job_id)
    folder.write(0, 3, 4, 55, 3.0, b'{"row":1}\n{"row":2}\n{"row":3}\n')
    city.jobs.cancel(job_id, ASKER, now() + timedelta(hours=1))
    city.announce()
    city.turns()
    until(lambda: not folder.is_open)
    assert len(folder.result("jsonl").read_bytes().splitlines()) == 3
    assert counted(city, job_id, 0) == ("SERVED", 3, 4, "job", "tourism")
    assert city.seen == []


def test_a_stopped_platform_goes_on_where_it_was(city):
    job_id = submit(city)
    first = city.turns()  # no replica yet
    waiting = until(lambda: (j := city.jobs.get(job_id)).error and j)
    assert waiting.error["code"] == "not_ready"
    first.close()
    city.announce()
    city.turns()
    assert ended(city, job_id).state == "done"
    assert counted(city, job_id, 0)[0] == "SERVED"  # it was VOID after the stop


def test_a_job_waits_for_its_deployment_and_then_says_that_it_gave_up(city):
    city.turns(patience=0.3)
    job = ended(city, submit(city))
    assert (job.state, job.error["code"], job.done) == ("failed", "not_ready", 0)
    assert job.error["message"] == "No replica of crowd answers at the moment."


def test_a_job_without_a_grant_ends_before_its_next_chunk(city):
    job_id = submit(city)
    city.people.revoke_grant(city.grant.id, ADMIN)
    city.announce()
    city.turns()
    job = ended(city, job_id)
    assert (job.state, job.error["code"], city.seen) == ("failed", "not_granted", [])
    until((city.home.jobs / job_id / "result.jsonl").exists)


def test_a_full_disk_space_for_jobs_holds_them_back(city):
    (city.home.jobs / "other").write_bytes(b"x" * 100)
    city.announce()
    city.turns(disk=50, patience=0.3)
    job = ended(city, submit(city))
    assert (job.state, job.error["code"], city.seen) == ("failed", "unavailable", [])


def test_results_are_removed_when_they_expire_and_folders_without_a_job_too(city):
    city.announce()
    city.turns(keep_hours=0.3 / 3600)
    job = ended(city, submit(city))
    assert job.expires_at > now()
    orphan, fresh = city.home.jobs / "orphan", city.home.jobs / "fresh"
    orphan.mkdir()
    fresh.mkdir()
    os.utime(orphan, (0, 0))
    until(lambda: not (city.home.jobs / job.id).exists() and not orphan.exists())
    assert fresh.exists()
    assert city.jobs.get(job.id).state == "done"
