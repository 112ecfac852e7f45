"""The same records on SQLite and on PostgreSQL: migrations, races, one truth."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from support_registry import World

from citybrain.core.errors import (
    AliasMoved,
    Conflict,
    NameTaken,
    NotAllowed,
    Overloaded,
    RowNotFound,
)
from citybrain.core.names import Ref
from citybrain.core.schemas import Actor, NewDepartment, NewGrant, NewKey
from citybrain.storage.journal import Admitted, JournalWriter, Settled
from citybrain.storage.moments import now
from citybrain.storage.records.audit import entries, note
from citybrain.storage.records.deployments import Deployments
from citybrain.storage.records.draws import Draws
from citybrain.storage.records.endings import Endings
from citybrain.storage.records.evaluations import Evaluations
from citybrain.storage.records.history import History
from citybrain.storage.records.jobs import Jobs
from citybrain.storage.records.owners import Owners
from citybrain.storage.records.past import Past
from citybrain.storage.records.people import People
from citybrain.storage.records.usage import Usage
from citybrain.storage.records.verdicts import Verdict, Verdicts
from citybrain.storage.tables import Table

ADMIN = Actor(key="k1", department="platform", role="admin")
OTHER = Actor(key="k2", department="platform", role="admin")


def test_migrations_make_the_tables_that_the_code_declares(database):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    database.migrate()  # a second start changes nothing
    with database.engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), Table.metadata)
    assert found == []


def test_departments_keys_and_grants(database):
    people = People(database)
    people.add_department(NewDepartment(name="traffic"), ADMIN)
    with pytest.raises(NameTaken):
        people.add_department(NewDepartment(name="traffic"), ADMIN)
    with pytest.raises(RowNotFound):
        people.add_key(NewKey(department="nobody"), "k9", "h9", ADMIN)
    before = database.revision()
    people.add_key(NewKey(department="traffic"), "k9", "h9", ADMIN)
    assert database.revision() > before
    assert [digest for digest, _ in people.living_keys(now())] == ["h9"]
    people.revoke_key("k9", ADMIN)
    assert people.living_keys(now()) == []
    new = NewGrant(department="traffic", algorithm="any-one")
    assert people.add_grant(new, ADMIN).id == people.add_grant(new, ADMIN).id
    acts = [entry.action for entry in entries(database)]
    assert acts == ["grant.give", "key.revoke", "key.issue", "department.add"]


def test_an_act_that_fails_leaves_no_audit_row_and_an_audit_row_no_act(database):
    people = People(database)
    people.add_department(NewDepartment(name="traffic"), ADMIN)
    for _ in range(3):
        with pytest.raises(NameTaken):
            people.add_department(NewDepartment(name="traffic"), ADMIN)
    assert len(entries(database)) == len(people.departments()) == 1


FULL = "TRUST_FULL" in os.environ
RACER = Path(__file__).parents[1] / "promotion_racer.py"


@contextmanager
def readers(look):
    """Two that look all the time; what they saw is checked at the end."""
    seen, over = [], threading.Event()

    def read():
        while not over.is_set():
            seen.append(look())
            time.sleep(0.002)  # the racers need the processor, too

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join()


def all_at_once(act, wanted):
    """Do something for each of these at the same moment; which of them won, who lost."""
    barrier, won, lost = threading.Barrier(len(wanted)), [], []

    def race(one):
        barrier.wait()
        try:
            act(one)
            won.append(one)
        except AliasMoved as error:
            lost.append(error)

    threads = [threading.Thread(target=race, args=(one,)) for one in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won, lost


def check_line(history, rounds, champion, seen):
    """One move a round, each from where the one before ended; readers saw one champion each."""
    moves = history.moves("flow", "champion")
    assert len(moves) == rounds + 1
    for newer, older in pairwise(moves):
        assert newer.previous == older.version
    assert moves[0].version == champion
    versions = {move.version for move in moves}
    assert seen
    assert {one.get("champion") for one in seen} <= versions


def test_of_many_racing_promoters_one_wins_each_round_and_history_is_a_line(database):
    """Check D5. Each promoter wants another version; readers look all the time."""
    history, rounds, racers = History(database), 200 if FULL else 12, 32 if FULL else 8
    champion = history.move("flow", "champion", 1, expected=0, reason="first", actor=ADMIN).version
    with readers(lambda: History(database).aliases("flow")["flow"]) as seen:
        for number in range(rounds):

            def move(version, expected=champion):
                history.move(
                    "flow", "champion", version, expected=expected, reason="r", actor=ADMIN
                )

            wanted = [1000 * (number + 1) + racer for racer in range(racers)]
            won, lost = all_at_once(move, wanted)
            assert len(lost) == racers - 1
            (champion,) = won
    check_line(history, rounds, champion, seen)
    assert history.aliases() == {"flow": {"champion": champion}}


@pytest.mark.filterwarnings("ignore:You should not use the 'timeout' argument")
def test_racing_promoters_and_approvers_over_the_api_get_a_conflict_when_they_lost(
    database, tmp_path, fresh_home
):
    """The whole way: gate, question, approval, MLflow. Rounds take turns between both rules."""
    shutil.copytree(fresh_home, tmp_path / "home")
    world = World(tmp_path / "home", database_url=database.url)
    rounds, racers = 8 if FULL else 2, 32 if FULL else 5
    versions = [world.register(tmp_path) for _ in range(racers + 1)]
    for version in versions:
        world.examined(version)
    second, history = world.client("traffic", "developer"), world.plane.truths.history
    champion = world.owner.promote("flow", versions[-1]).version
    with readers(lambda: world.admin.algorithm("flow").algorithm.aliases) as seen:
        for number in range(rounds):
            wanted = [version for version in versions if version != champion]
            if number % 2:
                world.owner.set_approval("flow", "four-eyes")
                asked = {world.owner.promote("flow", one).id: one for one in wanted}
                won, lost = all_at_once(second.approve, list(asked))
                assert {"ask again" in error.hint for error in lost} == {True}
                won = [asked[one] for one in won]
                world.owner.set_approval("flow", "self")
            else:

                def promote(one, expected=champion):
                    world.owner.promote("flow", one, expected=expected)

                won, lost = all_at_once(promote, wanted)
            assert len(lost) == racers - 1
            (champion,) = won
    check_line(history, rounds, champion, seen)
    model = world.plane.catalogue.client.get_registered_model("flow")
    assert int(model.aliases["champion"]) == champion
    assert history.promotions("flow", "waiting") == [], "no loser is left to be approved later"
    world.plane.truths.database.close()


def test_racing_promoters_in_several_processes_win_one_at_a_time(database):
    history, rounds, processes = History(database), 40 if FULL else 5, 4 if FULL else 2
    racers = 8 if FULL else 4
    champion = history.move("flow", "champion", 1, expected=0, reason="first", actor=ADMIN).version
    others = [
        subprocess.Popen(
            [sys.executable, str(RACER), database.url, str(racers)], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for _ in range(processes)
    ]  # fmt: skip
    try:
        for other in others:
            assert json.loads(other.stdout.readline()) == "ready"
        with readers(lambda: history.aliases("flow")["flow"]) as seen:
            for number in range(rounds):
                for place, other in enumerate(others):
                    first = 1000 * (number + 1) + 100 * place
                    other.stdin.write(json.dumps([champion, first]) + "\n")
                    other.stdin.flush()
                told = [json.loads(other.stdout.readline()) for other in others]
                (champion,) = [version for won, _ in told for version in won]
                assert sum(len(lost) for _, lost in told) == processes * racers - 1
    finally:
        for other in others:
            other.kill()
            other.communicate()
    check_line(history, rounds, champion, seen)
    assert history.promotions("flow", "waiting") == []


def test_four_eyes_and_the_alias_move_are_one_transaction(database):
    history = History(database)
    asked = history.ask("flow", "champion", 3, "e1", ADMIN)
    with pytest.raises(NotAllowed, match="four eyes"):
        history.approve(asked.id, ADMIN, self_allowed=False)
    assert history.aliases() == {}
    assert history.approve(asked.id, OTHER, self_allowed=False).state == "done"
    assert history.aliases() == {"flow": {"champion": 3}}
    with pytest.raises(Conflict):
        history.approve(asked.id, OTHER, self_allowed=True)


def test_a_promotion_ends_when_its_alias_moves_before_it_is_decided(database):
    history = History(database)
    first, second = (history.ask("flow", "champion", v, "e", ADMIN) for v in (3, 4))
    elsewhere = history.ask("flow", "staging", 4, "", ADMIN)
    history.approve(first.id, OTHER, self_allowed=False)
    with pytest.raises(AliasMoved, match="has moved to version 3 since promotion") as refused:
        history.approve(second.id, OTHER, self_allowed=False)
    assert "ask again: citybrain promote flow@4 --alias champion" in refused.value.hint
    assert history.promotion(second.id).state == "overtaken"
    assert history.aliases("flow")["flow"] == {"champion": 3}
    assert [p.id for p in history.promotions("flow", "waiting")] == [elsewhere.id]
    assert [p.id for p in Past(database).as_of(now()).waiting] == [elsewhere.id]
    with pytest.raises(AliasMoved, match="points to version 3, not 4"):
        history.ask("flow", "champion", 5, "e", ADMIN, expected=4)
    again = history.ask("flow", "champion", 4, "e", ADMIN, expected=3)
    assert history.approve(again.id, OTHER, self_allowed=False).state == "done"


def test_who_registered_a_version_is_no_second_pair_of_eyes(database):
    history, author = History(database), Actor(key="k3", department="traffic", role="developer")
    history.note_version("flow", 3, "traffic", "four-eyes", author, "d")
    asked = history.ask("flow", "champion", 3, "e", ADMIN)
    with pytest.raises(NotAllowed, match="who registered version 3 cannot approve"):
        history.approve(asked.id, author, self_allowed=False)
    assert history.aliases() == {}
    assert history.approve(asked.id, OTHER, self_allowed=False).state == "done"


def test_no_alias_moves_to_a_retired_version(database):
    history, endings = History(database), Endings(database)
    asked = history.ask("flow", "champion", 3, "e", ADMIN)
    endings.retire("flow", 3, now() + timedelta(days=9), "", ADMIN)
    for act in (
        lambda: history.approve(asked.id, OTHER, self_allowed=False),
        lambda: history.ask("flow", "staging", 3, "", ADMIN),
        lambda: history.move("flow", "dev", 3, expected=0, reason="r", actor=ADMIN),
    ):
        with pytest.raises(Conflict, match="flow@3 is retired"):
            act()
    assert history.aliases("flow") == {"flow": {"retired": 3}}
    endings.undo("flow", 3, ADMIN)
    assert history.approve(asked.id, OTHER, self_allowed=False).state == "done"


def test_deployments_keep_what_is_wanted_apart_from_what_was_seen(database):
    deployments = Deployments(database)
    deployments.want("flow", "champion", 2, ADMIN)
    deployments.saw("flow", "champion", state="running", version=4, running={"app": "a"})
    found = deployments.get("flow", "champion")
    assert (found.state, found.version, found.replicas, found.running) == (
        "running", 4, 2, {"app": "a"}
    )  # fmt: skip
    before = database.revision()
    deployments.saw("flow", "champion", state="running", version=4, running={"app": "a"})
    assert database.revision() == before
    deployments.unwant("flow", "champion", ADMIN)
    deployments.saw("flow", "champion", state="running")
    assert deployments.all()[0].state == "removing"
    deployments.forget("flow", "champion")
    assert deployments.all() == []


def test_why_a_version_did_not_start_is_kept_until_it_starts(database):
    deployments = Deployments(database)

    def saw(target, **seen):
        deployments.saw("flow", target, version=4, **seen)

    for target in ("champion", "4"):
        deployments.want("flow", target, 1, ADMIN)
    saw("champion", state="starting")
    assert deployments.failures("flow") == []
    saw("champion", state="failed", message="no memory")
    (found,) = deployments.failures("flow")
    assert (found.version, found.target, found.message) == (4, "champion", "no memory")
    saw("4", state="failed", message="no graph")
    deployments.unwant("flow", "champion", ADMIN)
    deployments.forget("flow", "champion")
    assert [f.message for f in deployments.failures("flow")] == ["no graph"], "the last one"
    assert deployments.failures("router") == []
    saw("4", state="running", running={"app": "a", "version": 4})
    assert deployments.failures("flow") == []


def test_interrupted_evaluations_say_so(database):
    evaluations = Evaluations(database)
    asked = evaluations.start("peak", "flow", 1, "", ADMIN)
    assert evaluations.fail_interrupted() == 1
    found = evaluations.get(asked.id)
    assert (found.state, found.error["code"]) == ("failed", "interrupted")
    assert evaluations.find(algorithm="flow", state="failed")[0].id == asked.id


def test_departments_take_turns_with_their_jobs_and_an_ended_job_stays_as_it_is(database):
    jobs = Jobs(database)

    def submit(job, department, algorithm="flow"):
        actor = Actor(key="k", department=department, role="department")
        ref = Ref(algorithm, "champion")
        jobs.submit(job, ref, "tensor", "operation", "jsonl", 10, 5, actor, most=2)

    for job, department in (("a1", "air"), ("a2", "air"), ("t1", "traffic"), ("w1", "water")):
        submit(job, department)
    submit("x1", "air2", algorithm="other")
    with pytest.raises(Overloaded, match="2 open jobs"):
        submit("a3", "air")
    assert sorted(jobs.algorithms()) == ["flow", "other"]
    turns, after = [], ""
    for _ in range(4):
        job = jobs.next("flow", after)
        turns.append(job.id)
        after = job.department
    assert turns == ["a1", "t1", "w1", "a1"]
    jobs.started("a1")
    jobs.waits("a1", {"code": "not_ready", "message": "waits", "hint": ""})
    jobs.progress("a1", 5, 1, [{"row": 2, "code": "bad_json", "message": "no"}])
    found = jobs.get("a1")
    assert (found.state, found.done, found.failed, found.error) == ("running", 5, 1, {})
    assert found.eta_seconds is not None
    assert [Owners(database).of("job", one) for one in ("a1", "none")] == ["air", ""]
    with pytest.raises(RowNotFound):
        jobs.get("none")
    assert jobs.cancel("a1", OTHER, now()).state == "cancelled"
    jobs.progress("a1", 10, 1, [])
    jobs.ended("a1", "done", now())
    assert (jobs.get("a1").state, jobs.get("a1").done) == ("cancelled", 5)
    assert jobs.next("flow", "water").id == "a2"
    submit("a3", "air")
    acts = [(e.action, e.detail["job"]) for e in entries(database) if e.object.startswith("flow")]
    assert ("job.cancel", "a1") in acts
    assert acts.count(("job.submit", "a3")) == 1


def test_two_loaders_at_once_count_each_call_once(database, tmp_path):
    folder = tmp_path / "journal"
    folder.mkdir()
    writer = JournalWriter(folder)
    for number in range(600):
        a = Admitted(f"{number:032x}", 0, "k", "traffic", "flow", "operation", "task")
        writer.admit(a)
        writer.settle(Settled(*a, 1, 200, 1, 900))
    writer.flush()
    loaders = [Usage(database, ZoneInfo("UTC")) for _ in range(2)]

    def load(loader):
        for _ in range(3):
            try:
                loader.load(folder)
            except Exception:  # one of two racing loaders may lose; it would repeat
                continue

    threads = [threading.Thread(target=load, args=(loader,)) for loader in loaders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    loaders[0].load(folder)
    assert sum(line.requests for line in loaders[0].days()) == 600


def test_what_a_split_drew_is_counted_and_read_back(database, tmp_path):
    folder = tmp_path / "journal"
    folder.mkdir()
    writer, usage = JournalWriter(folder), Usage(database, ZoneInfo("UTC"))
    for number in range(900):
        second, version = number % 3, number % 2 + 1
        a = Admitted(f"{number:032x}", 1000 * second, "k", "traffic", "flow", "operation", "task")
        status = 503 if number % 10 == 9 else 200
        settled = Settled(*a, version, status, 1, 900)
        writer.settle(settled._replace(drawn=version, drawn_status=status, drawn_micros=900))
        if number % 300 == 299:
            writer.flush()
            usage.load(folder)
    found = Draws(database).arms("flow", datetime(1969, 12, 31, tzinfo=UTC))
    assert {v: (arm.calls, arm.failed) for v, arm in found.items()} == {1: (450, 0), 2: (450, 90)}
    assert found[1].p50_ms == found[1].p95_ms == 0.9
    assert len(found[1].took_ms) == 150
    assert Draws(database).arms("flow", datetime(1970, 1, 1, tzinfo=UTC))[1].calls == 300


def test_the_newest_verdict_about_a_version_counts(database):
    verdicts, history = Verdicts(database), History(database)
    assert verdicts.of("flow", 1) == Verdict()
    history.note_version("flow", 1, "traffic", "self", ADMIN, "d1", "r1")
    history.note_version("flow-2", 1, "traffic", "self", ADMIN, "d2", "r2")
    verdicts.turn_away("odd@name", 3, "It is odd.", ADMIN)
    before = history.revision()
    verdicts.turn_away("flow-2", 1, "Other files.", ADMIN)
    assert history.revision() > before, "who projects must look again"
    with database.write() as session:  # a stranger's request, as the audit tells of it
        for target in ("POST /algorithms/{name}/versions", "flow", "flow@1"):
            note(session, ADMIN, "version.register", target, result="denied", code="not_allowed")
    assert verdicts.of("flow", 1) == Verdict("d1", "r1")
    assert verdicts.all("flow") == {("flow", 1): Verdict("d1", "r1")}
    assert verdicts.all()["flow-2", 1] == Verdict(problem="Other files.")
    assert verdicts.all()["odd@name", 3].problem == "It is odd."
