"""Every setting of a deployment's replicas reaches Ray Serve, or is refused with its reason."""

import os
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from citybrain.core.errors import InvalidInput
from citybrain.core.schemas import Actor, NewDeployment
from citybrain.serving.reconciler import Reconciler
from citybrain.serving.replica import as_ray_app, hidden_gpus
from citybrain.serving.resources import (
    Capacity,
    refuse_number,
    refuse_resources,
    refuse_sharing,
)
from citybrain.serving.scaling import by_load
from citybrain.storage.database import Database
from citybrain.storage.records.deployments import Deployments

FULL = "TRUST_FULL" in os.environ
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
RESOURCES = {
    "cpus": st.sampled_from([1, 1, 2, 2, 3, 4, 9, 0, 257]),
    "gpus": st.one_of(st.sampled_from([0, 0, 0.5, 0.25, 1, 2]), st.sampled_from([1.5, 3, 0.001, -1, 17]), st.floats()),
}  # fmt: skip
MANY = st.one_of(
    st.fixed_dictionaries({}, optional={"replicas": st.integers(-1, 66)}),
    st.fixed_dictionaries({"scaling": RANGE}),
    st.fixed_dictionaries({"scaling": RANGE}, optional={"replicas": st.integers(1, 3)}),
)
SAID = st.one_of(
    MANY,
    st.builds(lambda many, more: many | more, MANY, st.fixed_dictionaries({}, optional=RESOURCES)),
    st.fixed_dictionaries(RESOURCES, optional={"replicas": st.integers(1, 4)}),
    st.fixed_dictionaries(
        {"shared": st.booleans()}, optional=RESOURCES | {"replicas": st.integers(1, 2)}
    ),
)
CAPACITIES = [
    Capacity(8, 0, 8, 0, 2), Capacity(8, 2, 8, 2, 8), Capacity(4, 1, 512, 128, 4),
    Capacity(256, 16, 16384, 1024, 256),
]  # fmt: skip
PLACES = {
    "min_replicas": "min_replicas", "max_replicas": "max_replicas",
    "target_load": "target_ongoing_requests", "up_after": "upscale_delay_s",
    "down_after": "downscale_delay_s", "sleep_after": "downscale_to_zero_delay_s",
}  # fmt: skip


class Cluster:
    """Makes what Serve would be given, and gives it to nobody."""

    given = shared = None

    def share(self, spec, attempt):
        self.shared = spec

    def capacity(self):
        return self.has

    def status(self):
        return {}

    def settle(self):
        """Nothing shares a replica here."""

    def start(self, spec, replicas, scaling, *, first, attempt):
        app = as_ray_app(spec, replicas, scaling, first=first, attempt=attempt)
        self.given = app._bound_deployment


class Catalogue:
    """One version of everything."""

    signers = SimpleNamespace(trusted=dict)

    def pointed(self, _):
        return 1

    runtime = "onnx"

    def served(self, *_):
        manifest = SimpleNamespace(name="flow", runtime=self.runtime, model_dump=lambda mode: {})
        return SimpleNamespace(
            form="source", folder="/nowhere", digest="d", statement="s", manifest=manifest
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    database = Database.at(folder / "platform.db")
    database.migrate()
    deployments, cluster = Deployments(database), Cluster()
    catalogue = Catalogue()
    reconciler = Reconciler(
        deployments, catalogue, catalogue, cluster, folder, verify=300.0, environment={}
    )
    yield deployments, cluster, reconciler, catalogue
    database.close()


def test_every_setting_takes_effect_or_is_refused(world):
    deployments, cluster, reconciler, catalogue = world
    outcomes = Counter()

    @settings(
        max_examples=1000 if FULL else 300,
        derandomize=True,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(SAID, st.sampled_from(CAPACITIES), st.sampled_from(["onnx", "onnx", "triton"]))
    def check(said, has, runtime):
        try:
            new = NewDeployment.model_validate(said)
        except ValidationError as error:
            assert all(problem["msg"] for problem in error.errors())
            outcomes["refused"] += 1
            return
        catalogue.runtime = runtime
        reconciler.capacity = cluster.has = has
        manifest = catalogue.served().manifest
        try:  # as the control API does
            if new.shared:
                refuse_sharing(manifest)
            refuse_resources(new, manifest, has)
            refuse_number(new, "flow", has)
        except InvalidInput as error:
            assert error.message
            outcomes["refused here"] += 1
            # And it is right: a replica could not have it, or so many could not.
            assert (
                runtime == "triton" or new.cpus > min(has.cores, has.cpus) or new.gpus > has.gpus
                or new.most * new.cpus > has.all_cpus or new.most * new.gpus > has.all_gpus
            )  # fmt: skip
            return
        deployments.want(
            "flow", "champion", new.most, ADMIN, new.scaling, shared=new.shared, cpus=new.cpus,
            gpus=new.gpus,
        )  # fmt: skip
        cluster.given = cluster.shared = None
        reconciler.step()
        if said.get("shared"):
            outcomes["shared"] += 1
            assert (cluster.shared.threads, cluster.shared.gpus) == (1, 0)
            assert hidden_gpus(cluster.shared) == {"CUDA_VISIBLE_DEVICES": ""}
            return
        options = cluster.given.ray_actor_options
        wanted = {"num_cpus": said.get("cpus", 1), "num_gpus": said.get("gpus", 0)}
        assert {name: options.get(name, 0) for name in wanted} == wanted
        spec = cluster.given.init_args[0]
        assert spec.threads == wanted["num_cpus"]
        assert bool(hidden_gpus(spec)) == (not wanted["num_gpus"])
        outcomes["cpus"] += wanted["num_cpus"] > 1
        outcomes["gpus"] += wanted["num_gpus"] > 0
        given_to_serve = cluster.given._deployment_config
        scaling = said.get("scaling")
        if scaling is None:
            outcomes["fixed"] += 1
            assert given_to_serve.num_replicas == said.get("replicas", 1)
            assert given_to_serve.autoscaling_config is None
            return
        outcomes["range"] += 1
        found = given_to_serve.autoscaling_config
        for name, value in scaling.items():
            assert getattr(found, PLACES[name]) == value, name
        assert found.policy.get_policy().__name__ == by_load.__name__
        # And none of it is a setting that another one switches off.
        assert found.min_replicas < found.max_replicas
        assert found.initial_replicas >= 1
        assert "sleep_after" not in scaling or found.min_replicas == 0

    check()
    kinds = ("refused", "refused here", "fixed", "range", "shared", "cpus", "gpus")
    assert min(outcomes[kind] for kind in kinds) >= (8 if FULL else 2), outcomes


@pytest.mark.parametrize("runtime", ["pipeline", "triton"])
@pytest.mark.parametrize("wanted", [{"cpus": 2}, {"gpus": 0.5}])
def test_what_has_no_model_here_has_no_use_for_cpus_and_gpus(runtime, wanted):
    manifest = SimpleNamespace(name="flow", runtime=runtime)
    with pytest.raises(InvalidInput, match="pipeline" if runtime == "pipeline" else "server"):
        refuse_resources(NewDeployment(**wanted), manifest, CAPACITIES[-1])
    refuse_resources(NewDeployment(), manifest, CAPACITIES[-1])


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
