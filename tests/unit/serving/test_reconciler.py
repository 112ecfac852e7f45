"""The reconciler on a cluster of plain objects: what should run comes to run, after anything."""

from pathlib import Path

import pytest

from citybrain.core.errors import VersionNotFound
from citybrain.core.schemas import Actor
from citybrain.serving import reconciler as module
from citybrain.serving.cluster import AppStatus
from citybrain.serving.reconciler import Reconciler, plain_reason
from citybrain.storage.database import Database
from citybrain.storage.records.deployments import Deployments

ADMIN = Actor(key="k1", department="platform", role="admin")


class Manifest:
    def model_dump(self, mode):
        return {"name": "flow"}


class PlainCatalogue:
    """One algorithm; `champion` points where the test says."""

    def __init__(self):
        self.champion = 1

    def pointed(self, ref):
        if not self.champion:
            raise VersionNotFound("flow has no alias 'champion' yet.")
        return ref.version or self.champion

    def folder(self, name, version):
        return Path("/nowhere"), f"digest-{version}"

    def manifest(self, name, version):
        return Manifest()

    def statement(self, name, version):
        return "signed"

    @property
    def signers(self):
        return self

    def trusted(self):
        return {}


class PlainCluster:
    """Applications by name; a test moves them on by hand."""

    def __init__(self):
        self.apps = {}

    def status(self):
        return dict(self.apps)

    def start(self, spec, replicas):
        self.apps[spec.app] = AppStatus("deploying", "")

    def delete(self, app):
        del self.apps[app]

    def becomes(self, app, state, message=""):
        self.apps[app] = AppStatus(state, message)


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LINGER", -1.0)
    database = Database.at(tmp_path / "platform.db")
    database.migrate()
    deployments = Deployments(database)
    catalogue, cluster = PlainCatalogue(), PlainCluster()
    deployments.want("flow", "champion", 1, ADMIN)
    return deployments, catalogue, cluster, Reconciler(deployments, catalogue, cluster, tmp_path)


def seen(deployments):
    found = deployments.get("flow", "champion")
    return found.state, found.version, found.running.get("app", "")


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


def test_a_new_version_that_fails_says_why_and_the_old_one_goes_on(world):
    deployments, catalogue, cluster, reconciler = world
    reconciler.step()
    cluster.becomes("flow.champion.v1", "running")
    reconciler.step()
    catalogue.champion = 2
    reconciler.step()
    cluster.becomes("flow.champion.v2", "failed", "Traceback\nx.errors.BadPackage: no weights")
    reconciler.step()
    assert seen(deployments) == ("failed", 2, "flow.champion.v1")
    assert deployments.get("flow", "champion").message.startswith("x.errors.BadPackage: no weights")
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


def test_the_reason_stands_before_the_trace():
    text = "\x1b[36mray::x\x1b[39m\nTraceback …\ncitybrain.core.errors.DigestMismatch: changed\n"
    assert plain_reason(text).splitlines()[0] == "citybrain.core.errors.DigestMismatch: changed"
    assert plain_reason("just words") == "just words"
