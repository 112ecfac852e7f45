"""The same records on SQLite and on PostgreSQL: migrations, races, one truth."""

import os
import threading
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from citybrain.core.errors import AliasMoved, Conflict, NameTaken, NotAllowed, RowNotFound
from citybrain.core.schemas import Actor, NewDepartment, NewGrant, NewKey
from citybrain.storage.journal import Admitted, JournalWriter, Settled
from citybrain.storage.moments import now
from citybrain.storage.records.audit import entries
from citybrain.storage.records.deployments import Deployments
from citybrain.storage.records.evaluations import Evaluations
from citybrain.storage.records.history import History
from citybrain.storage.records.people import People
from citybrain.storage.records.usage import Usage
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


def test_of_many_racing_promoters_one_wins_each_round_and_history_is_a_line(database):
    """Check D5. Each promoter wants another version; readers look all the time."""
    full = "TRUST_FULL" in os.environ
    history, rounds, racers = History(database), 200 if full else 12, 32 if full else 8
    first = history.move("flow", "champion", 1, expected=0, reason="first", actor=ADMIN)
    champion, lost, seen, over = first.version, [], [], threading.Event()

    def read():
        reader = History(database)
        while not over.is_set():
            seen.append(reader.aliases("flow")["flow"])

    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in readers:
        thread.start()
    try:
        for number in range(rounds):
            barrier, won = threading.Barrier(racers), []

            def race(version, expected=champion, barrier=barrier, won=won):
                barrier.wait()
                try:
                    history.move(
                        "flow", "champion", version, expected=expected, reason="r", actor=ADMIN
                    )
                    won.append(version)
                except AliasMoved:
                    lost.append(version)

            wanted = [1000 * (number + 1) + racer for racer in range(racers)]
            threads = [threading.Thread(target=race, args=(version,)) for version in wanted]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            (champion,) = won
    finally:
        over.set()
        for thread in readers:
            thread.join()
    moves = history.moves("flow")
    assert len(moves) == rounds + 1
    for newer, older in pairwise(moves):
        assert newer.previous == older.version
    assert len(lost) == rounds * (racers - 1)
    assert history.aliases() == {"flow": {"champion": champion}}
    versions = {move.version for move in moves}
    assert seen
    assert all(one.keys() == {"champion"} and one["champion"] in versions for one in seen)


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


def test_interrupted_evaluations_say_so(database):
    evaluations = Evaluations(database)
    asked = evaluations.start("peak", "flow", 1, "", ADMIN)
    assert evaluations.fail_interrupted() == 1
    found = evaluations.get(asked.id)
    assert (found.state, found.error["code"]) == ("failed", "interrupted")
    assert evaluations.find(algorithm="flow", state="failed")[0].id == asked.id


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
