"""What was true at a moment: the history answers as the live tables did, and nobody rewrites it."""

import random
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from citybrain.core.errors import AliasMoved, Conflict, VersionWithdrawn
from citybrain.core.schemas import (
    Actor,
    NewCanary,
    NewDepartment,
    NewGrant,
    NewTraffic,
    Share,
)
from citybrain.storage.moments import now
from citybrain.storage.records.deployments import Deployments
from citybrain.storage.records.endings import Endings
from citybrain.storage.records.history import History
from citybrain.storage.records.past import Past
from citybrain.storage.records.people import People
from citybrain.storage.records.traffic import Traffics

ADMIN = Actor(key="k1", department="platform", role="admin")
ALGORITHMS = ("flow", "router", "detector")
DEPARTMENTS = ("traffic", "health", "tourism")


class City:
    """The live tables, moved by random acts."""

    def __init__(self, database, seed):
        self.history, self.deployments = History(database), Deployments(database)
        self.people, self.traffics = People(database), Traffics(database)
        self.random = random.Random(seed)
        self.versions = dict.fromkeys(ALGORITHMS, 0)
        self.actors = [Actor(key=f"k{n}", department="platform", role="admin") for n in range(4)]
        for name in DEPARTMENTS:
            self.people.add_department(NewDepartment(name=name), ADMIN)

    def act(self):
        name, actor = self.random.choice(ALGORITHMS), self.random.choice(self.actors)
        target = self.random.choice(("champion", "staging"))
        kinds = (self.register, self.move, self.deploy, self.see, self.undeploy, self.take_down)
        kinds += (self.grant, self.revoke, self.ask, self.decide, self.share, self.share)
        self.random.choice(kinds)(name, target, actor)

    def register(self, name, _, actor):
        self.versions[name] += 1
        self.history.note_version(name, self.versions[name], "platform", "self", actor, "d")
        self._move(name, "challenger", self.versions[name], actor)

    def move(self, name, target, actor):
        if self.versions[name]:
            self._move(name, target, self.random.randint(0, self.versions[name]), actor)

    def _move(self, name, alias, version, actor):
        before = self.history.aliases(name).get(name, {}).get(alias, 0)
        self.history.move(name, alias, version, expected=before, reason="r", actor=actor)

    def deploy(self, name, target, actor):
        self.deployments.want(name, target, self.random.randint(1, 4), actor)

    def see(self, name, target, _):
        version = self.random.randint(1, 9)
        running = {"app": f"{name}.{target}.v{version}", "version": version, "manifest": {}}
        empty = self.random.random() < 0.2
        self.deployments.saw(
            name, target, state="running", version=version, running={} if empty else running
        )

    def undeploy(self, name, target, actor):
        if any((d.algorithm, d.target) == (name, target) for d in self.deployments.all()):
            self.deployments.unwant(name, target, actor)

    def take_down(self, name, target, _):
        self.deployments.forget(name, target)

    def grant(self, name, _, actor):
        until = now() + timedelta(milliseconds=self.random.randint(1, 400))
        new = NewGrant(
            department=self.random.choice(DEPARTMENTS), algorithm=name,
            purpose=self.random.choice(("operation", "planning")),
            until=until if self.random.random() < 0.6 else None,
        )  # fmt: skip
        self.people.add_grant(new, actor)

    def revoke(self, *_):
        grants = self.people.grants()
        if grants:
            self.people.revoke_grant(self.random.choice(grants).id, ADMIN)

    def ask(self, name, target, actor):
        if self.versions[name]:
            self.history.ask(name, target, self.versions[name], "", actor)

    def decide(self, name, _, actor):
        waiting = self.history.promotions(name, "waiting")
        if waiting and self.random.random() < 0.5:
            self.history.withdraw(waiting[0].id, actor)
        elif waiting:
            self.history.approve(waiting[0].id, actor, self_allowed=True)

    def share(self, name, target, actor):
        """Splits, shadows and fallbacks by hand, and canaries that move a split."""
        held = self.traffics.get(name)
        if held.canary:
            state = self.random.choice(("running", "running", "stopped", "rolled-back"))
            self.traffics.move(held.canary, state, 1, "r")
        elif self.random.random() < 0.4 and not held.split:
            self.traffics.start(name, NewCanary(target="7", steps=[5, 50]), 7, 1, actor)
        else:
            part = self.random.randint(1, 3) * 10
            plans = (
                {}, {"shadow": target, "shadow_percent": part}, {"fallback": [target]},
                {"split": [Share(target="champion", percent=100 - part),
                           Share(target="staging", percent=part)]},
            )  # fmt: skip
            self.traffics.put(name, NewTraffic(**self.random.choice(plans)), actor)

    def live(self, at):
        """What the live tables say, in the words of `told`."""
        aliases = {(n, a, v) for n, found in self.history.aliases().items()
                   for a, v in found.items()}  # fmt: skip
        wanted = {(d.algorithm, d.target, d.replicas, d.wanted_by, d.wanted_at)
                  for d in self.deployments.all() if d.state != "removing"}  # fmt: skip
        served = {(d.algorithm, d.target, d.running["version"], d.running["app"])
                  for d in self.deployments.all() if d.running}  # fmt: skip
        grants = {(g.id, g.department, g.algorithm, g.purpose, g.until, g.granted_by)
                  for g in self.people.grants()
                  if not g.revoked_at and (g.until is None or g.until > at)}  # fmt: skip
        waiting = {(p.id, p.alias, p.algorithm, p.version, p.asked_by, p.at)
                   for p in self.history.promotions(state="waiting")}  # fmt: skip
        traffic = {(t.algorithm, t.model_dump_json(exclude={"since"})) for t in self.traffics.all().values()
                   if t.split or t.shadow or t.fallback}  # fmt: skip
        return aliases, wanted, served, traffic, grants, waiting


def told(then, algorithm=""):
    aliases = {(a.algorithm, a.alias, a.version) for a in then.aliases}
    wanted = {(d.algorithm, d.target, d.replicas, d.moved_by, d.at)
              for d in then.deployments if d.wanted}  # fmt: skip
    served = {(d.algorithm, d.target, d.version, d.app) for d in then.deployments if d.version}
    grants = {(g.id, g.department, g.algorithm, g.purpose, g.until, g.moved_by)
              for g in then.grants}  # fmt: skip
    waiting = {(p.id, p.alias, p.algorithm, p.version, p.moved_by, p.at) for p in then.waiting}
    traffic = {
        (t.algorithm, t.model_dump_json(exclude={"moved_by", "at", "since"})) for t in then.traffic
    }
    return aliases, wanted, served, traffic, grants, waiting


def test_the_history_answers_as_the_live_tables_did_at_each_of_200_moments(database):
    city, past = City(database, seed=7), Past(database)
    snapshots = []
    for _ in range(200):
        city.act()
        at = now()
        snapshots.append((at, city.live(at)))
    for at, live in snapshots:
        assert told(past.as_of(at)) == live, at
    sizes = [max(len(live[part]) for _, live in snapshots) for part in range(6)]
    assert min(sizes) >= 2, "the acts did not reach every table"
    expired = [g for g in city.people.grants() if g.until and not g.revoked_at and g.until < now()]
    assert expired, "no grant ended by itself"
    at, live = snapshots[150]
    one = past.as_of(at, "flow")
    assert told(one) == tuple(
        {row for row in part if row[2 if part in live[4:] else 0] == "flow"} for part in live
    )


def test_as_of_before_everything_is_empty(database):
    before = now()
    city = City(database, seed=1)
    city.register("flow", "", ADMIN)
    then = Past(database).as_of(before)
    assert (then.aliases, then.deployments, then.traffic, then.grants) == ([], [], [], [])


def test_as_of_tells_who_moved_a_split(database):
    city = City(database, seed=1)
    hand = Actor(key="k9", department="traffic", role="developer")
    city.traffics.put("flow", NewTraffic(shadow="staging", shadow_percent=20), hand)
    first = now()
    started = city.traffics.start("flow", NewCanary(target="7", steps=[5, 50]), 7, 1, hand)
    city.traffics.move(started.id, "running", 1, "fine so far")
    second = now()
    city.traffics.move(started.id, "rolled-back", 1, "slower")
    (by_hand,) = Past(database).as_of(first).traffic
    assert (by_hand.moved_by, by_hand.shadow, by_hand.split, by_hand.canary) == (
        "k9", "staging", [], "",
    )  # fmt: skip
    (stepped,) = Past(database).as_of(second, "flow").traffic
    assert (stepped.moved_by, stepped.canary, stepped.shadow) == ("canary", started.id, "staging")
    assert [(s.target, s.percent) for s in stepped.split] == [("7", 50), ("champion", 50)]
    (back,) = Past(database).as_of(now()).traffic
    assert (back.canary, back.split, back.shadow) == ("", [], "staging")
    assert Past(database).as_of(second, "router").traffic == []


@pytest.mark.parametrize(
    "table",
    [
        "alias_moves",
        "deployment_moves",
        "grant_moves",
        "promotion_moves",
        "retirements",
        "traffic_moves",
        "version_ends",
    ],
)
def test_nobody_rewrites_the_history(database, table):
    city, endings = City(database, seed=1), Endings(database)
    city.register("flow", "", ADMIN)
    city.register("flow", "", ADMIN)
    city.deploy("flow", "champion", ADMIN)
    city.grant("flow", "", ADMIN)
    city.history.ask("flow", "staging", 2, "", ADMIN)
    city.traffics.put("flow", NewTraffic(fallback=["staging"]), ADMIN)
    endings.retire("flow", 2, now() + timedelta(days=1), "", ADMIN)
    endings.withdraw("flow", 1, "d", "a mistake", ADMIN)
    acts = [f"UPDATE {table} SET moved_by = 'nobody'", f"DELETE FROM {table}"]
    if database.engine.dialect.name == "postgresql":
        acts.append(f"TRUNCATE {table}")
    for act in acts:
        with pytest.raises(DatabaseError, match="append-only"), database.write() as session:
            session.execute(text(act))
    with database.read() as session:
        assert session.scalar(text(f"SELECT count(*) FROM {table} WHERE moved_by <> 'nobody'"))


def test_a_database_from_before_keeps_what_it_still_knew(tmp_path):
    """Rows of the first tables become the first rows of the history."""
    from alembic import command
    from alembic.config import Config

    from citybrain.storage.database import Database

    database = Database.at(tmp_path / "old.db")
    config = Config()
    config.set_main_option("script_location", "citybrain.storage:migrations")
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for act in (
            "INSERT INTO grants VALUES ('g1','health','flow','operation','k1',"
            "'2026-01-01 00:00:00.000000',NULL,NULL)",
            "INSERT INTO grants VALUES ('g2','health','flow','planning','k1',"
            "'2026-01-01 00:00:00.000000',NULL,'2026-02-01 00:00:00.000000')",
            "INSERT INTO promotions VALUES ('p1','flow','champion',3,'e','waiting','k1','',"
            "'2026-01-03 00:00:00.000000',NULL)",
            "INSERT INTO promotions VALUES ('p2','flow','champion',2,'e','done','k1','k2',"
            "'2026-01-03 00:00:00.000000','2026-01-04 00:00:00.000000')",
            "INSERT INTO deployments VALUES ('flow','champion',2,'k1','2026-01-02 00:00:00.000000',"
            "'starting','',4,'{\"app\": \"flow.champion.v3\", \"version\": 3}')",
            "INSERT INTO promotions VALUES ('p3','flow','champion',5,'e','waiting','k1','',"
            "'2026-01-01 00:00:00.000000',NULL)",
            "INSERT INTO alias_moves VALUES (1,'flow','champion',1,2,0,'r','k2',"
            "'2026-01-02 00:00:00.000000')",
            "INSERT INTO deployments VALUES ('flow','2',1,'k1','2026-01-02 00:00:00.000000',"
            "'failed','no memory',2,'{}')",
        ):
            connection.exec_driver_sql(act)
        command.upgrade(config, "0008_shared")
        connection.exec_driver_sql(
            "INSERT INTO traffic VALUES ('flow','{\"fallback\": [\"2\"]}','','k1',"
            "'2026-01-02 00:00:00.000000')"
        )
    database.migrate()
    then = Past(database).as_of(now())
    assert [(g.id, g.moved_by) for g in then.grants] == [("g1", "k1")]
    assert [(p.id, p.moved_by) for p in then.waiting] == [("p1", "k1")]
    assert History(database).promotion("p3").state == "overtaken", "its alias moved since"
    assert [(t.fallback, t.moved_by) for t in then.traffic] == [(["2"], "k1")]
    assert [f.message for f in Deployments(database).failures("flow")] == ["no memory"]
    assert [(d.version, d.app, d.replicas) for d in then.deployments if d.version] == [
        (3, "flow.champion.v3", 2)
    ]
    database.close()


def test_a_withdrawn_version_is_closed_and_its_aliases_end(database):
    city, endings = City(database, seed=1), Endings(database)
    for _ in range(3):
        city.register("flow", "", ADMIN)
    city.history.move("flow", "champion", 1, expected=0, reason="r", actor=ADMIN)
    city.history.move("flow", "staging", 2, expected=0, reason="r", actor=ADMIN)
    city.deployments.want("flow", "staging", 1, ADMIN)
    waiting = city.history.ask("flow", "city", 2, "", ADMIN)
    with pytest.raises(Conflict, match="champion") as refused:
        endings.withdraw("flow", 1, "d", "a mistake", ADMIN)
    assert "citybrain rollback flow" in refused.value.hint
    with pytest.raises(Conflict, match="deployed as flow@staging") as refused:
        endings.withdraw("flow", 2, "d", "a mistake", ADMIN)
    assert "citybrain deploy flow@staging --remove" in refused.value.hint
    with pytest.raises(Conflict, match="not withdrawn"):
        endings.delete("flow", 2, "d", ADMIN)
    city.deployments.unwant("flow", "staging", ADMIN)
    with pytest.raises(Conflict, match="deployed"):  # it still answers until it is taken down
        endings.withdraw("flow", 2, "d", "a mistake", ADMIN)
    city.deployments.forget("flow", "staging")
    endings.withdraw("flow", 2, "d", "a mistake", ADMIN)
    assert city.history.aliases("flow")["flow"] == {"challenger": 3, "champion": 1}
    assert city.history.promotions("flow")[0].state == "withdrawn"
    with pytest.raises(VersionWithdrawn, match="a mistake"):
        city.history.move("flow", "city", 2, expected=0, reason="r", actor=ADMIN)
    with pytest.raises(VersionWithdrawn):
        city.history.ask("flow", "city", 2, "", ADMIN)
    with pytest.raises(VersionWithdrawn):
        city.deployments.want("flow", "2", 1, ADMIN)
    with pytest.raises(VersionWithdrawn):
        endings.withdraw("flow", 2, "d", "again", ADMIN)
    with pytest.raises(Conflict):
        city.history.approve(waiting.id, ADMIN, self_allowed=True)
    assert endings.delete("flow", 2, "d", ADMIN).kind == "deleted"
    endings.delete("flow", 2, "d", ADMIN)  # again, after a crash in between
    assert [end.kind for end in endings.ends("flow")] == ["withdrawn", "deleted"]


def test_a_withdrawal_and_a_promotion_of_one_version_cannot_both_win(database):
    import threading

    history, endings = History(database), Endings(database)
    for version in range(1, 16):
        history.note_version("flow", version, "platform", "self", ADMIN, "d")
        before = history.aliases("flow").get("flow", {}).get("champion", 0)
        barrier, won = threading.Barrier(2), []

        def promote(version=version, before=before, barrier=barrier, won=won):
            barrier.wait()
            try:
                history.move("flow", "champion", version, expected=before, reason="r", actor=ADMIN)
                won.append("promoted")
            except (AliasMoved, VersionWithdrawn):
                pass

        def withdraw(version=version, barrier=barrier, won=won):
            barrier.wait()
            try:
                endings.withdraw("flow", version, "d", "a mistake", ADMIN)
                won.append("withdrawn")
            except Conflict:
                pass

        threads = [threading.Thread(target=work) for work in (promote, withdraw)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1, won


def test_a_retirement_is_noted_marked_undone_and_not_said_twice(database):
    city, endings = City(database, seed=1), Endings(database)
    city.register("flow", "", ADMIN)
    city.register("flow", "", ADMIN)
    sunset = now() + timedelta(days=30)
    before = database.revision()
    endings.retire("flow", 1, sunset, "router", ADMIN)
    endings.retire("flow", 2, sunset, "", ADMIN)
    endings.retire("flow", 0, sunset, "router@2", ADMIN)
    assert database.revision() > before, "gateways would not look"
    assert [(r.version, r.replacement) for r in endings.retirements("flow")] == [
        (0, "router@2"), (1, "router"), (2, ""),
    ]  # fmt: skip
    assert city.history.aliases("flow")["flow"]["retired"] == 2
    with pytest.raises(Conflict, match="flow@1 is retired already"):
        endings.retire("flow", 1, sunset, "", ADMIN)
    endings.undo("flow", 2, ADMIN)
    assert city.history.aliases("flow")["flow"]["retired"] == 1
    endings.undo("flow", 1, ADMIN)
    assert "retired" not in city.history.aliases("flow")["flow"]
    with pytest.raises(Conflict, match="not retired"):
        endings.undo("flow", 1, ADMIN)
    endings.retire("flow", 1, sunset, "", ADMIN)
    assert [r.version for r in endings.retirements()] == [0, 1]
