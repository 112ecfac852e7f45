"""The reconciler on a cluster of plain objects: what should run comes to run, after anything."""

from pathlib import Path

import pytest

from citybrain.core.error_marks import marked, marked_in
from citybrain.core.errors import (
    BadPackage,
    DigestMismatch,
    RemoteDown,
    VersionNotFound,
)
from citybrain.core.schemas import Actor, Scaling
from citybrain.registry.forms import Served
from citybrain.serving import reconciler as module
from citybrain.serving.app_status import AppStatus
from citybrain.serving.reconciler import NO_ROOM, Reconciler, plain_reason
from citybrain.serving.resources import Capacity
from citybrain.storage.database import Database
from citybrain.storage.records.audit import entries
from citybrain.storage.records.deployments import Deployments

ADMIN = Actor(key="k1", department="platform", role="admin")


class Manifest:
    name, runtime = "flow", "onnx"

    def model_dump(self, mode):
        return {"name": "flow"}


class PlainCatalogue:
    """One algorithm; `champion` points where the test says."""

    def __init__(self):
        self.champion, self.form, self.manifest = 1, "source", Manifest()

    def pointed(self, ref):
        if not self.champion:
            raise VersionNotFound("flow has no alias 'champion' yet.")
        return ref.version or self.champion

    def served(self, name, version, revision):
        folder, digest = Path("/nowhere"), f"digest-{version}-{self.form}"
        return Served(self.form, folder, digest, "signed", self.manifest)

    @property
    def signers(self):
        return self

    def trusted(self):
        return {}


class PlainCluster:
    """Applications by name; a test moves them on by hand."""

    def __init__(self):
        self.apps, self.started, self.woken, self.shared = {}, [], [], []
        self.settled = 0
        self.has = Capacity(8.0, 1.0, 16.0, 2.0, 4.0)
        self.specs = {}

    def capacity(self):
        return self.has

    def status(self):
        return dict(self.apps)

    def start(self, spec, replicas, scaling, *, first, attempt):
        self.specs[spec.app] = spec
        self.started.append((spec.app, replicas, scaling, first, bool(attempt)))
        self.apps[spec.app] = AppStatus("deploying", "")

    def share(self, spec, attempt):
        self.shared.append((spec.app, bool(attempt)))
        self.apps[spec.app] = AppStatus("deploying", "")

    def settle(self):
        self.settled += 1

    def shared_bytes(self):
        return {app: 7 for app in self.apps if app.endswith(".shared")}

    def wake(self, app):
        self.woken.append(app)

    def delete(self, app):
        del self.apps[app]

    def becomes(self, app, state, message="", replicas=0, note=""):
        self.apps[app] = AppStatus(state, message, replicas, replicas, note)


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LINGER", -1.0)
    database = Database.at(tmp_path / "platform.db")
    database.migrate()
    deployments = Deployments(database)
    catalogue, cluster = PlainCatalogue(), PlainCluster()
    deployments.want("flow", "champion", 1, ADMIN)
    reconciler = Reconciler(
        deployments, catalogue, catalogue, cluster, tmp_path, verify=300.0, environment={}
    )
    return deployments, catalogue, cluster, reconciler


def seen(deployments):
    found = deployments.get("flow", "champion")
    return found.state, found.version, found.running.get("app", "")


def serve_says(error):
    """A replica's error as Serve passes it on."""
    return f"A replica failed. Error:\n\x1b[36mray::x\x1b[39m\nRuntimeError: {marked(error)}\nbye"


def test_what_is_wanted_is_started_and_routed_when_it_is_warm(world):
    deployments, _, cluster, reconciler = world
    assert not reconciler.step()
    assert seen(deployments) == ("starting", 1, "")
    cluster.becomes("flow.champion.v1", "running")
    assert reconciler.step()
    assert seen(deployments) == ("running", 1, "flow.champion.v1")


def test_a_new_version_starts_beside_the_old_which_answers_until_the_new_is_warm(world):
    deployments, catalogue, cluster, reconciler = world
    reconciler.step()
    cluster.becomes("flow.champion.v1", "running")
    reconciler.step()
    catalogue.champion = 2
    reconciler.step()
    assert seen(deployments) == ("starting", 2, "flow.champion.v1")
    assert set(cluster.apps) == {"flow.champion.v1", "flow.champion.v2"}
    cluster.becomes("flow.champion.v2", "running")
    reconciler.step()
    assert seen(deployments) == ("running", 2, "flow.champion.v2")
    assert set(cluster.apps) == {"flow.champion.v2"}


def test_a_faster_form_takes_over_when_it_is_warm(world):
    deployments, catalogue, cluster, reconciler = world
    reconciler.step()
    cluster.becomes("flow.champion.v1", "running")
    reconciler.step()
    catalogue.form = "onnx"
    reconciler.step()
    assert seen(deployments) == ("starting", 1, "flow.champion.v1")
    cluster.becomes("flow.champion.v1.onnx", "running")
    reconciler.step()
    assert seen(deployments) == ("running", 1, "flow.champion.v1.onnx")
    assert deployments.get("flow", "champion").running["form"] == "onnx"
    assert set(cluster.apps) == {"flow.champion.v1.onnx"}


def test_a_new_version_that_fails_says_why_and_the_old_one_goes_on(world):
    deployments, catalogue, cluster, reconciler = world
    reconciler.step()
    cluster.becomes("flow.champion.v1", "running")
    reconciler.step()
    catalogue.champion = 2
    reconciler.step()
    cluster.becomes("flow.champion.v2", "failed", serve_says(BadPackage("No weights.")))
    reconciler.step()
    assert seen(deployments) == ("failed", 2, "flow.champion.v1")
    assert deployments.get("flow", "champion").message == "No weights."
    assert "flow.champion.v1" in cluster.apps


def test_a_cluster_that_lost_everything_gets_everything_again(world):
    deployments, _, cluster, reconciler = world
    reconciler.step()
    cluster.becomes("flow.champion.v1", "running")
    reconciler.step()
    cluster.apps.clear()
    assert not reconciler.step()
    assert seen(deployments) == ("starting", 1, "")
    assert set(cluster.apps) == {"flow.champion.v1"}


def test_what_is_no_longer_wanted_is_taken_down(world):
    deployments, _, cluster, reconciler = world
    reconciler.step()
    deployments.unwant("flow", "champion", ADMIN)
    reconciler.step()
    reconciler.step()
    assert cluster.apps == {}
    assert deployments.all() == []


def test_an_alias_that_points_nowhere_is_a_reason_not_a_crash(world):
    deployments, catalogue, _, reconciler = world
    catalogue.champion = 0
    reconciler.step()
    assert deployments.get("flow", "champion").message == "flow has no alias 'champion' yet."


def test_a_failed_version_is_tried_again_when_it_is_asked_for_again(world):
    deployments, _, cluster, reconciler = world
    reconciler.step()
    cluster.becomes("flow.champion.v1", "failed", "no")
    reconciler.step()
    deployments.want("flow", "champion", 1, ADMIN)
    reconciler.step()
    assert cluster.apps["flow.champion.v1"].state == "deploying"


CHANGED = DigestMismatch("The files are not those that were registered.", hint="Register again.")


def refusals(deployments):
    return [e.object for e in entries(deployments._database) if e.action == "version.refused"]


def test_a_running_version_that_refuses_its_files_is_not_routed_until_they_are_back(world):
    deployments, _, cluster, reconciler = world
    reconciler.step()
    cluster.becomes("flow.champion.v1", "running")
    reconciler.step()
    for again in ("", "once more: ", ""):  # Serve goes on trying
        cluster.becomes("flow.champion.v1", "running", again + serve_says(CHANGED))
        reconciler.step()
        assert seen(deployments) == ("failed", 1, "")
        assert deployments.get("flow", "champion").message == str(CHANGED)
        assert set(cluster.apps) == {"flow.champion.v1"}
    assert refusals(deployments) == ["flow@1"]
    cluster.becomes("flow.champion.v1", "running")
    reconciler.step()
    assert seen(deployments) == ("running", 1, "flow.champion.v1")


def test_a_new_version_that_refuses_its_files_leaves_the_old_one_answering(world):
    deployments, catalogue, cluster, reconciler = world
    reconciler.step()
    cluster.becomes("flow.champion.v1", "running")
    reconciler.step()
    catalogue.champion = 2
    reconciler.step()
    cluster.becomes("flow.champion.v2", "failed", serve_says(CHANGED))
    reconciler.step()
    assert seen(deployments) == ("failed", 2, "flow.champion.v1")
    assert refusals(deployments) == ["flow@2"]


def test_an_error_is_found_in_whatever_stands_around_it():
    odd = DigestMismatch('a "quote",\na line\\ and [brackets]', hint="市")
    found = marked_in(f"x\n{serve_says(BadPackage('first'))}\n{serve_says(odd)}")
    assert (type(found), found.message, found.hint) == (DigestMismatch, odd.message, odd.hint)
    for text in (
        "",
        "DigestMismatch: a class of somebody else",
        "citybrain-error [1, 2",
        "citybrain-error []",
    ):
        assert marked_in(text) is None


def test_a_stranger_s_reason_stands_before_its_trace():
    text = "\x1b[36mray::x\x1b[39m\nTraceback …\nonnx.SomeError: broken\n"
    assert plain_reason(text).splitlines()[0] == "onnx.SomeError: broken"
    assert plain_reason("just words") == "just words"


ZERO_TO_FOUR = Scaling(min_replicas=0, max_replicas=4)


@pytest.fixture
def ranged(world):
    """The algorithm runs with a range, and its replica is warm."""
    deployments, _, cluster, reconciler = world
    deployments.want("flow", "champion", 4, ADMIN, ZERO_TO_FOUR)
    reconciler.step()
    cluster.becomes("flow.champion.v1", "running", replicas=1)
    assert reconciler.step()
    return world


def test_a_range_reaches_serve_and_the_number_that_runs_is_told(ranged):
    _, _, cluster, reconciler = ranged
    assert cluster.started == [("flow.champion.v1", 4, ZERO_TO_FOUR, True, False)]
    (found,) = reconciler.deployments()
    assert (found.running_replicas, found.asleep, found.wanted_replicas) == (1, False, "0..4")
    assert reconciler.deployment("flow", "champion") == found


def test_a_deployment_that_sleeps_runs_and_is_neither_failed_nor_started_again(ranged):
    deployments, _, cluster, reconciler = ranged
    cluster.becomes("flow.champion.v1", "running", replicas=0)
    revision = deployments.revision()
    for _ in range(3):
        assert reconciler.step()
    (found,) = reconciler.deployments()
    assert (found.state, found.running_replicas, found.asleep) == ("running", 0, True)
    assert found.running["app"] == "flow.champion.v1"  # gateways keep the route
    assert deployments.revision() == revision  # and are not told to load their tables again
    assert len(cluster.started) == 1


def test_a_range_that_must_not_sleep_is_not_called_asleep(ranged):
    deployments, _, cluster, reconciler = ranged
    deployments.want("flow", "champion", 4, ADMIN, Scaling(min_replicas=1, max_replicas=4))
    reconciler.step()
    cluster.becomes("flow.champion.v1", "running", replicas=0)
    reconciler.step()
    assert not reconciler.deployment("flow", "champion").asleep


def test_another_range_is_told_to_what_runs_and_only_once(ranged):
    deployments, _, cluster, reconciler = ranged
    wider = Scaling(min_replicas=1, max_replicas=6)
    deployments.want("flow", "champion", 6, ADMIN, wider)
    reconciler.step()
    cluster.becomes("flow.champion.v1", "running", replicas=1)
    reconciler.step()
    deployments.want("flow", "champion", 6, ADMIN, wider)
    reconciler.step()
    assert cluster.started[1:] == [("flow.champion.v1", 6, wider, False, False)]


def test_another_attempt_at_what_failed_is_another_version_for_serve(world):
    deployments, _, cluster, reconciler = world
    reconciler.step()
    cluster.becomes("flow.champion.v1", "failed", "no")
    reconciler.step()
    deployments.want("flow", "champion", 1, ADMIN)
    reconciler.step()
    assert cluster.started[1:] == [("flow.champion.v1", 1, None, True, True)]


def test_who_cannot_call_by_handle_can_have_a_sleeping_deployment_woken(ranged):
    _, _, cluster, reconciler = ranged
    reconciler.rouse("flow.champion.v1")  # it is awake
    reconciler.rouse("other.champion.v1")  # it is not there
    reconciler.step()
    assert cluster.woken == []
    cluster.becomes("flow.champion.v1", "running", replicas=0)
    reconciler.step()
    assert cluster.woken == []  # nobody asked since
    reconciler.rouse("flow.champion.v1")
    reconciler.step()
    reconciler.step()
    assert cluster.woken == ["flow.champion.v1"]


def test_a_shared_deployment_is_asked_for_in_the_shared_replica(world):
    deployments, _, cluster, reconciler = world
    deployments.want("flow", "champion", 1, ADMIN, shared=True)
    reconciler.step()
    assert (cluster.shared, cluster.started) == ([("flow.champion.v1.shared", False)], [])
    assert cluster.settled == 1
    cluster.becomes("flow.champion.v1.shared", "running", replicas=1)
    assert reconciler.step()
    (found,) = reconciler.deployments()
    assert (found.state, found.running_replicas, found.wanted_replicas) == ("running", 1, "shared")
    assert found.running["shared"] is True
    assert reconciler.shared_bytes() == {("flow", "champion"): 7}
    reconciler.step()
    assert len(cluster.shared) == 1


def test_one_that_moves_in_or_out_is_warm_there_before_it_leaves_here(world):
    deployments, _, cluster, reconciler = world
    own, shared = "flow.champion.v1", "flow.champion.v1.shared"
    reconciler.step()
    cluster.becomes(own, "running", replicas=1)
    reconciler.step()
    for before, after, wish in ((own, shared, True), (shared, own, False)):
        deployments.want("flow", "champion", 1, ADMIN, shared=wish)
        reconciler.step()
        assert seen(deployments) == ("starting", 1, before)
        assert set(cluster.apps) == {own, shared}
        cluster.becomes(after, "running", replicas=1)
        reconciler.step()
        assert seen(deployments) == ("running", 1, after)
        assert set(cluster.apps) == {after}
        assert bool(deployments.get("flow", "champion").running.get("shared")) == wish


def test_a_shared_one_that_failed_is_tried_again_when_it_is_asked_for_again(world):
    deployments, _, cluster, reconciler = world
    deployments.want("flow", "champion", 1, ADMIN, shared=True)
    reconciler.step()
    cluster.becomes("flow.champion.v1.shared", "failed", marked(BadPackage("No weights.")))
    reconciler.step()
    assert seen(deployments) == ("failed", 1, "")
    assert deployments.get("flow", "champion").message == "No weights."
    deployments.want("flow", "champion", 1, ADMIN, shared=True)
    reconciler.step()
    assert cluster.shared[-1] == ("flow.champion.v1.shared", True)


@pytest.mark.parametrize(
    ("runtime", "why"), [("pipeline", "no replica"), ("triton", "another server")]
)
def test_what_cannot_share_a_replica_fails_with_the_reason(world, runtime, why):
    deployments, catalogue, cluster, reconciler = world
    catalogue.manifest.runtime = runtime
    deployments.want("flow", "champion", 1, ADMIN, shared=True)
    reconciler.step()
    found = deployments.get("flow", "champion")
    assert (found.state, cluster.shared) == ("failed", [])
    assert why in found.message


def test_one_with_other_resources_is_warm_before_the_one_without_leaves(world):
    deployments, _, cluster, reconciler = world
    reconciler.step()
    cluster.becomes("flow.champion.v1", "running")
    reconciler.step()
    deployments.want("flow", "champion", 1, ADMIN, cpus=2, gpus=0.5)
    reconciler.step()
    spec = cluster.specs["flow.champion.v1.c2.g0_5"]
    assert (spec.threads, spec.gpus) == (2, 0.5)
    assert seen(deployments) == ("starting", 1, "flow.champion.v1")
    cluster.becomes(spec.app, "running")
    reconciler.step()
    assert seen(deployments) == ("running", 1, spec.app)
    reconciler.step()
    assert set(cluster.apps) == {spec.app}


@pytest.mark.parametrize(
    ("wanted", "has", "reason"),
    [
        ({"gpus": 1.0}, Capacity(8, 0, 8, 0, 4), "has no GPU"),
        ({"gpus": 2.0}, Capacity(8, 1, 8, 4, 4), "a machine has 1"),
        ({"cpus": 5}, Capacity(16, 0, 16, 0, 4), "this machine has 4"),
        ({"cpus": 3}, Capacity(2, 0, 2, 0, 4), "Ray gives 2"),
    ],
)
def test_what_no_machine_has_is_a_reason_and_what_runs_goes_on(world, wanted, has, reason):
    deployments, _, cluster, reconciler = world
    reconciler.step()
    cluster.becomes("flow.champion.v1", "running")
    reconciler.step()
    reconciler.capacity = cluster.has = has
    deployments.want("flow", "champion", 1, ADMIN, **wanted)
    reconciler.step()
    assert seen(deployments) == ("failed", 1, "flow.champion.v1")
    assert reason in deployments.get("flow", "champion").message
    assert set(cluster.apps) == {"flow.champion.v1"}


def test_one_that_waits_for_room_says_so(world):
    deployments, _, cluster, reconciler = world
    reconciler.step()
    said = "Deployment 'replica' has 1 replicas that have taken more than 30s to be scheduled."
    cluster.becomes("flow.champion.v1", "deploying", said)
    reconciler.step()
    found = deployments.get("flow", "champion")
    assert (found.state, found.message) == ("starting", NO_ROOM + said)


def test_a_note_of_the_replicas_is_shown_while_it_runs_and_goes_with_its_reason(world):
    deployments, _, cluster, reconciler = world
    reconciler.step()
    cluster.becomes("flow.champion.v1", "running", note="The server is silent.")
    reconciler.step()
    found = deployments.get("flow", "champion")
    assert (found.state, found.message) == ("running", "The server is silent.")
    cluster.becomes("flow.champion.v1", "running")
    reconciler.step()
    assert deployments.get("flow", "champion").message == ""


def test_what_failed_for_want_of_a_server_is_tried_again_and_other_failures_are_not(
    world, monkeypatch
):
    deployments, _, cluster, reconciler = world
    monkeypatch.setattr(module, "RETRY_SECONDS", -1.0)
    reconciler.step()
    cluster.becomes("flow.champion.v1", "failed", serve_says(BadPackage("No.")))
    reconciler.step()
    reconciler.step()
    assert len(cluster.started) == 1
    cluster.becomes("flow.champion.v1", "failed", serve_says(RemoteDown("It is silent.")))
    reconciler.step()
    assert cluster.started[1:] == [("flow.champion.v1", 1, None, True, True)]
    assert "silent" in deployments.get("flow", "champion").message
