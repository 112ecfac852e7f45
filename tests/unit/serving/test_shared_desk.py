"""Several real models in one process: right answers, each one's failure its own, files looked at."""

import json
import shutil
import threading
import time

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from gauges import gauge

from citybrain.core.error_marks import marked_in
from citybrain.core.errors import DigestMismatch, SignatureWrong
from citybrain.core.signatures import sign
from citybrain.models.package import folder_digest
from citybrain.serving import shared_desk
from citybrain.serving.app_status import AppStatus
from citybrain.serving.errand import Errand
from citybrain.serving.lane_doors import prefix
from citybrain.serving.replica import ReplicaSpec
from citybrain.serving.shared import REPORT, Report, SharedApps, SharedModel, Told
from citybrain.serving.shared_desk import SharedDesk
from citybrain.serving.wire import Call

PRIVATE = b"7" * 32
SIGNERS = {
    "me": Ed25519PrivateKey.from_private_bytes(PRIVATE).public_key().public_bytes_raw().hex()
}
NAMES = ("gate", "pump", "weir")
ANSWERING = AppStatus("running", "", 1, 1)


def model(folder, lanes, name, kind="good", signers=SIGNERS, attempt=""):
    if not folder.exists():
        gauge(folder, kind, name, side=600)
    digest = folder_digest(folder)
    statement = {
        "algorithm": name, "version": 1, "form": "source", "digest": digest, "at": "now",
        "signer": "me",
    }  # fmt: skip
    spec = ReplicaSpec(
        str(folder), digest, 1, 1, str(lanes), f"{name}.champion.v1.shared", "source",
        sign(PRIVATE, statement), signers, 0.2, {},
    )  # fmt: skip
    return SharedModel(spec, attempt)


def call(x=1.0, **extra):
    body = json.dumps({"inputs": [{"features": {"x": x, "y": 1.0}}]}).encode()
    return Call("task", body, -1, "application/json", "r1", **extra)


def until(condition):
    for _ in range(1000):
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(condition)


class World:
    """A desk, and the control process's view of it."""

    def __init__(self, folder, limit=1 << 30):
        self.folder = folder
        self.lanes = folder / "lanes"
        self.lanes.mkdir(mode=0o700)
        self.desk = SharedDesk(self.lanes, limit)
        self.models = [model(folder / name, self.lanes, name) for name in NAMES]

    def seen(self, name):
        try:
            found = msgspec.json.decode((self.lanes / REPORT).read_bytes(), type=Report).models
        except OSError:
            return None
        return next((s for s in found if s.wanted.spec.app.startswith(f"{name}.")), None)

    def state(self, name):
        return getattr(self.seen(name), "state", None)

    def ask(self, name, *calls):
        (reply,) = self.desk.answer(
            f"{name}.champion.v1.shared", list(calls) or [call()], Errand()
        ).replies
        return reply.code or json.loads(reply.body)["algorithm"]

    def announced(self, name):
        return list(self.lanes.glob(f"{prefix(f'{name}.champion.v1.shared')}*.lane"))


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_desk, "LOOK_SECONDS", 0.02)
    found = World(tmp_path)
    yield found
    found.desk.close()


def all_run(world, names=NAMES):
    world.desk.take(world.models)
    until(lambda: all(world.state(name) == "running" for name in names))


def test_each_answers_for_itself_and_has_a_lane_of_its_own(world):
    all_run(world)
    for name in NAMES:
        assert world.ask(name) == name
        assert len(world.announced(name)) == 1
        assert world.seen(name).bytes >= (world.folder / name / "model.onnx").stat().st_size
    assert world.ask("stranger") == "not_ready"
    served = world.desk.answer(f"{NAMES[0]}.champion.v1.shared", [call()], Errand())
    assert 0 < served.modelled < served.worked


def test_what_does_not_fit_takes_turns_and_every_thread_gets_its_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_desk, "LOOK_SECONDS", 0.02)
    world = World(tmp_path, limit=1)
    all_run(world)
    wrong = []

    def work(number):
        for step in range(10):
            name = NAMES[(number + step) % 3]
            if (found := world.ask(name)) != name:
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    until(lambda: sum(world.seen(name).bytes > 0 for name in NAMES) == 1)
    world.desk.close()


def test_one_that_cannot_load_says_why_and_its_neighbours_go_on(world):
    broken = model(world.folder / "broken", world.lanes, "broken")
    (world.folder / "broken" / "model.onnx").write_bytes(b"no graph")
    unsigned = model(world.folder / "unsigned", world.lanes, "unsigned", signers={})
    world.models += [broken, unsigned]
    all_run(world)
    until(lambda: world.state("broken") == world.state("unsigned") == "failed")
    assert isinstance(marked_in(world.seen("broken").message), DigestMismatch)
    assert isinstance(marked_in(world.seen("unsigned").message), SignatureWrong)
    assert world.ask("broken") == world.ask("unsigned") == "not_ready"
    assert not world.announced("broken")
    assert [world.ask(name) for name in NAMES] == [*NAMES]


def test_weights_that_are_no_model_fail_with_the_library_s_reason(world):
    (world.folder / "gate" / "model.onnx").write_bytes(b"no graph")
    world.models[0] = model(world.folder / "gate", world.lanes, "gate")
    all_run(world, NAMES[1:])
    until(lambda: world.state("gate") == "failed")
    assert world.seen("gate").message
    assert world.ask("gate") == "not_ready"


def test_files_that_change_close_one_until_they_are_back(world):
    all_run(world)
    weights = world.folder / "pump" / "model.onnx"
    good = weights.read_bytes()
    weights.write_bytes(good + b"!")
    until(lambda: world.state("pump") == "failed")
    assert isinstance(marked_in(world.seen("pump").message), DigestMismatch)
    assert (world.ask("pump"), world.ask("gate")) == ("not_ready", "gate")
    weights.write_bytes(good)
    until(lambda: world.state("pump") == "running")
    assert world.ask("pump") == "pump"


def test_one_that_is_taken_away_withdraws_and_the_others_stay(world):
    all_run(world)
    world.desk.take(world.models[1:])
    until(lambda: not world.announced("gate") and world.seen("gate") is None)
    assert world.ask("gate") == "not_ready"
    assert [world.ask(name) for name in NAMES[1:]] == [*NAMES[1:]]
    all_run(world)  # and it may come back
    until(lambda: world.announced("gate"))
    assert world.ask("gate") == "gate"


def test_one_algorithm_s_bad_answer_is_its_own(tmp_path, world):
    world.models.append(model(tmp_path / "odd", world.lanes, "odd", "nan"))
    all_run(world, (*NAMES, "odd"))
    assert world.ask("odd", call(0.0)) == "model_failed"
    assert (world.ask("odd"), world.ask("gate")) == ("odd", "gate")


def test_a_folder_that_vanishes_stops_nobody(world):
    world.desk.take(world.models[:2])
    until(lambda: world.state("gate") == world.state("pump") == "running")
    shutil.rmtree(world.lanes)
    assert world.ask("gate") == "gate"
    time.sleep(0.1)  # the keeper finds that it cannot report
    world.desk.take(world.models)
    until(lambda: world.state("weir") == "running")
    assert until(lambda: world.announced("weir"))


def test_the_end_withdraws_every_lane(world):
    all_run(world)
    world.desk.close()
    assert not list(world.lanes.glob("*.lane"))


def test_what_serve_hands_over_is_json_and_comes_back_the_same(world):
    told = json.loads(json.dumps(msgspec.to_builtins(Told(world.models))))
    assert msgspec.convert(told, Told).models == world.models


def test_the_control_process_sees_each_and_a_new_one_takes_the_list_from_the_report(world):
    apps = SharedApps(world.lanes)
    assert (apps.statuses(None), apps.news()) == ({}, None)
    for one in world.models:
        apps.want(one.spec, "")
    assert apps.news() == world.models
    apps.told(world.models)
    assert apps.news() is None
    assert {s.state for s in apps.statuses(ANSWERING).values()} == {"deploying"}
    all_run(world)
    assert {(s.state, s.replicas) for s in apps.statuses(ANSWERING).values()} == {("running", 1)}
    assert {s.replicas for s in apps.statuses(AppStatus("running", "", 0)).values()} == {0}
    apps.want(world.models[0].spec, "again")  # until the replica says something of this attempt
    assert apps.statuses(ANSWERING)[world.models[0].spec.app].state == "deploying"

    heir = SharedApps(world.lanes)
    assert {s.state for s in heir.statuses(ANSWERING).values()} == {"running"}
    assert heir.news() is None
    assert heir.drop(world.models[0].spec.app)
    assert not heir.drop("somebody.else.v1")
    assert heir.news() == world.models[1:]
    world.desk.close()
    heir.statuses(None)  # Ray lost it: nothing is known any more
    assert heir.news() is None
    assert not (world.lanes / REPORT).exists()


def test_a_process_that_does_not_start_fails_all_that_wait_for_it(world):
    apps = SharedApps(world.lanes)
    apps.statuses(None)
    apps.want(world.models[0].spec, "")
    apps.told(apps.news())
    (found,) = apps.statuses(AppStatus("failed", "no memory")).values()
    assert (found.state, found.message) == ("failed", "no memory")
