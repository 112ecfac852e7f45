"""Every setting of a deployment reaches Ray Serve, or is refused with its reason."""

from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from citybrain.core.errors import CityBrainError, VersionNotFound
from citybrain.core.names import Ref, parse_ref
from citybrain.core.schemas import Actor, NewDeployment
from citybrain.platform.api.running import deploy
from citybrain.serving.reconciler import Reconciler, app_name
from citybrain.serving.replica import as_ray_app
from citybrain.serving.resources import Capacity
from citybrain.serving.scaling import by_load
from citybrain.storage.database import Database
from citybrain.storage.records.deployments import Deployments

ADMIN = Actor(key="k1", department="platform", role="admin")
GOOD, BAD = st.floats(1, 3600), st.one_of(st.sampled_from([-1.0, 0.0, 1e9]), st.floats())
SECONDS = st.one_of(GOOD, GOOD, GOOD, BAD)
RANGE = st.fixed_dictionaries(
    {"max_replicas": st.sampled_from([1, 2, 3, 4, 16, 64, 65])},
    optional={
        "min_replicas": st.sampled_from([-1, 0, 0, 0, 1, 2, 3]),
        "target_load": st.one_of(st.floats(0.05, 1.5), st.floats(0.05, 1.5), st.floats()),
        "up_after": SECONDS, "down_after": SECONDS, "sleep_after": SECONDS,
    },
)  # fmt: skip
TARGETS = st.sampled_from(["champion", "challenger", "city", "1", "2"])
ODD = st.one_of(
    st.sampled_from(["", "0", "3", "007", "02", "٢", "²", "v2", "latest", "City", "a@b", "x" * 64]),
    st.text(max_size=5),
)
SAID = st.one_of(
    st.fixed_dictionaries({}, optional={"replicas": st.integers(-1, 66)}),
    st.fixed_dictionaries({"scaling": RANGE}),
    st.fixed_dictionaries({"scaling": RANGE}, optional={"replicas": st.integers(1, 3)}),
    st.fixed_dictionaries({"shared": st.booleans(), "target": TARGETS}),
    st.fixed_dictionaries(
        {"shared": st.booleans(), "target": st.one_of(TARGETS, ODD)},
        optional={"replicas": st.integers(1, 2), "scaling": RANGE},
    ),
)
KINDS = {"flow": "onnx", "pipe": "pipeline", "far": "triton"}
ALIASES = {"champion": 1, "challenger": 2, "city": 1}
PLACES = {
    "min_replicas": "min_replicas", "max_replicas": "max_replicas",
    "target_load": "target_ongoing_requests", "up_after": "upscale_delay_s",
    "down_after": "downscale_delay_s", "sleep_after": "downscale_to_zero_delay_s",
}  # fmt: skip


class Cluster:
    """Makes what Serve would be given, and gives it to nobody."""

    def __init__(self):
        self.given, self.sharing = {}, set()

    def status(self):
        return {}

    def settle(self):
        """Nothing is handed over here."""

    def start(self, spec, replicas, scaling, *, first, attempt):
        app = as_ray_app(spec, replicas, scaling, first=first, attempt=attempt)
        self.given[spec.app] = app._bound_deployment._deployment_config

    def share(self, spec, attempt=""):
        self.sharing.add(spec.app)


class Catalogue:
    """Two versions of three algorithms, which differ in their runtime."""

    signers = SimpleNamespace(trusted=dict)

    def algorithm(self, name):
        return SimpleNamespace(owner="platform")

    def resolve(self, ref):
        found = ref.version if ref.version is not None else ALIASES.get(ref.target)
        if found not in (1, 2):
            raise VersionNotFound(f"{ref} is not there.")
        return found

    pointed = resolve

    def folder(self, name, version):
        """It is there."""

    def manifest(self, name, version):
        return SimpleNamespace(name=name, runtime=KINDS[name], model_dump=lambda **_: {})

    def served(self, name, version, revision):
        return SimpleNamespace(
            form="source", folder="/nowhere", digest="d", statement="s",
            manifest=self.manifest(name, version),
        )  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    database = Database.at(folder / "platform.db")
    database.migrate()
    catalogue, cluster = Catalogue(), Cluster()
    truths = SimpleNamespace(deployments=Deployments(database))
    plane = SimpleNamespace(
        catalogue=catalogue, truths=truths,
        reconciler=SimpleNamespace(capacity=Capacity(8, 0, 8, 0, 8)),
    )  # fmt: skip
    reconciler = Reconciler(
        truths.deployments, catalogue, catalogue, cluster, folder, verify=300.0, environment={}
    )
    yield plane, cluster, reconciler
    database.close()


def test_every_setting_takes_effect_or_is_refused(world):
    plane, cluster, reconciler = world
    outcomes = Counter()

    @settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
    @given(SAID, st.sampled_from(["flow", "flow", "far", "pipe"]))
    def check(said, name):
        try:
            new = NewDeployment.model_validate(said)
            found = deploy(name, new, plane, ADMIN)
        except (ValidationError, CityBrainError) as error:
            assert str(error)
            outcomes["refused"] += 1
            return
        assert parse_ref(f"{name}@{found.target}") == Ref(name, found.target), "callers reach it"
        scaling, shared = said.get("scaling"), said.get("shared", False)
        if name == "pipe":  # it runs in the gateways
            outcomes["pipeline"] += 1
            assert not shared
            assert (said.get("replicas", 1), scaling) == (1, None)
            plane.truths.deployments.unwant(name, found.target, ADMIN)
            return
        app = app_name(found, plane.catalogue.resolve(Ref(name, found.target)))
        cluster.given.pop(app, None)
        cluster.sharing.discard(app)
        reconciler.step()
        assert (app in cluster.sharing) == shared
        assert (app in cluster.given) != shared
        if shared:
            outcomes["shared"] += 1
            assert name == "flow"
            assert (said.get("replicas", 1), scaling) == (1, None)
            return
        given_to_serve = cluster.given[app]
        if scaling is None:
            outcomes["fixed"] += 1
            assert given_to_serve.num_replicas == said.get("replicas", 1)
            assert given_to_serve.autoscaling_config is None
            return
        outcomes["range"] += 1
        config = given_to_serve.autoscaling_config
        for setting, value in scaling.items():
            assert getattr(config, PLACES[setting]) == value, setting
        assert config.policy.get_policy().__name__ == by_load.__name__
        # And none of it is a setting that another one switches off.
        assert config.min_replicas < config.max_replicas
        assert config.initial_replicas >= 1
        assert "sleep_after" not in scaling or config.min_replicas == 0

    check()
    kinds = ("refused", "fixed", "range", "shared", "pipeline")
    assert min(outcomes[kind] for kind in kinds) >= 5, outcomes


def app(scaling=None, replicas=1, attempt=""):
    from citybrain.serving.replica import ReplicaSpec

    spec = ReplicaSpec(
        "/nowhere", "d", 1, 1, "/lanes", "flow.champion.v1", "source", "s", {}, 300.0, {}
    )
    made = as_ray_app(spec, replicas, scaling, first=True, attempt=attempt)
    return made._bound_deployment._version


def test_another_number_needs_no_restart_and_another_kind_or_attempt_does():
    ranges = [
        NewDeployment.model_validate({"scaling": {"max_replicas": n}}).scaling for n in (2, 3)
    ]
    assert app(replicas=1) == app(replicas=2)
    assert app(ranges[0]) == app(ranges[1])
    assert len({app(), app(ranges[0]), app(attempt="again")}) == 3
