"""Deployments stay within what their department was allotted."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from support_identity import World, manifest

from citybrain.core.errors import AllotmentExceeded
from citybrain.core.names import Ref
from citybrain.core.schemas import NewPromotion
from citybrain.core.schemas.quotas import NewAllotment
from citybrain.platform.wiring import SYSTEM

NAME, OTHER, LINE = "tourism-flow", "tourism-lake", "tourism-line"
PIPELINE = {"task": "composition", "runtime": "pipeline", "weights": "pipeline.yaml",
            "options": {"example": [{"hour": 8}]}}  # fmt: skip
STEPS = b"steps: [{name: kind, algorithm: tourism-flow}]"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    found = World(tmp_path_factory.mktemp("allotments"))
    register(found, OTHER, {"notes.txt": b"0" * 1000})
    register(found, LINE, {"pipeline.yaml": STEPS}, **PIPELINE)
    return found


def register(world, name, files, folder=None, **more):
    folder = folder or world.truths.home.work / name
    folder.mkdir()
    for path, body in ({"model.onnx": b"weights"} | files).items():
        (folder / path).write_bytes(body)
    (folder / "algorithm.yaml").write_text(yaml.safe_dump(manifest(name, "tourism") | more))
    world.plane.catalogue.register(folder, SYSTEM)


@pytest.fixture
def city(made):
    """Nothing is deployed, and nothing is allotted."""
    rows = made.truths.deployments
    for found in rows.all():
        rows.unwant(found.algorithm, found.target, SYSTEM)
        rows.forget(found.algorithm, found.target)
    allot(made)
    return made


def allot(world, **limits):
    world.plane.quotas.rows.allot("tourism", NewAllotment(**limits), SYSTEM)


def ask(world, name=NAME, target="challenger", **said):
    headers = {"authorization": f"Bearer {world.secret('admin')}"}
    path = f"/api/v1/deployments/{name}"
    return world.client().put(path, json={"target": target, **said}, headers=headers)


def refused(answer, *says):
    told = answer.json()
    assert (answer.status_code, told["code"]) == (403, "allotment_exceeded"), told
    for text in (*says, "citybrain quotas allot tourism"):
        assert text in told["detail"] + told["hint"], told


def test_replicas_of_all_deployments_count_together(city):
    allot(city, replicas=4)
    assert ask(city, replicas=3).status_code == 202
    refused(ask(city, OTHER, replicas=2), "needs 2 replicas more", "has 1 left", "take 3")
    assert ask(city, OTHER, replicas=1).status_code == 202
    refused(ask(city, OTHER, "1"), "has 0 left")
    city.truths.deployments.unwant(NAME, "challenger", SYSTEM)
    assert ask(city, OTHER, "1", replicas=3).status_code == 202, "what is taken down counts no more"


def test_a_range_counts_its_most_and_other_departments_nothing(city):
    allot(city, replicas=3)
    refused(ask(city, scaling={"min_replicas": 1, "max_replicas": 4}), "needs 4 replicas more")
    assert ask(city, scaling={"min_replicas": 0, "max_replicas": 3}).status_code == 202
    assert ask(city, "health-flow", replicas=9).status_code == 202
    [use] = city.plane.allotments.used()
    assert (use.allotment.replicas, use.taken.replicas) == (3, 3)


def test_cpus_and_gpus_count_once_a_replica(city):
    allot(city, cpus=4, gpus=1)
    refused(ask(city, replicas=3, cpus=2), "needs 6 CPUs more", "--cpus 6")
    assert ask(city, replicas=2, cpus=2, gpus=0.5).status_code == 202
    refused(ask(city, OTHER, gpus=0.25), "CPUs more")
    allot(city, gpus=1)
    refused(ask(city, OTHER, gpus=0.25), "needs 0.25 GPUs more", "has 0 left")


def test_memory_is_that_of_the_models_files(city):
    folder, _ = city.plane.catalogue.folder(OTHER, 1)
    size = sum(path.stat().st_size for path in folder.iterdir())
    allot(city, memory=2 * size)
    refused(ask(city, OTHER, replicas=3), f"needs {3 * size} bytes of models more")
    assert ask(city, OTHER, replicas=2).status_code == 202
    refused(ask(city), "has 0 left")


def test_all_that_share_take_one_replica(city):
    allot(city, replicas=1, cpus=1)
    assert ask(city, shared=True).status_code == 202
    assert ask(city, OTHER, shared=True).status_code == 202
    refused(ask(city, OTHER, "1"), "replicas more")
    allot(city, replicas=0)
    refused(ask(city, OTHER, "1"), "has 0 left")


def test_nothing_is_allotted_to_a_pipeline_which_has_no_replicas(city):
    allot(city, replicas=0)
    assert ask(city, LINE).status_code == 202
    refused(ask(city), "needs 1 replicas more")
    assert city.plane.allotments.used()[0].taken.replicas == 0


def test_what_runs_goes_on_and_may_shrink(city):
    assert ask(city, replicas=4).status_code == 202
    allot(city, replicas=1)
    assert city.truths.deployments.get(NAME, "challenger").replicas == 4
    assert ask(city, replicas=4).status_code == 202, "it takes no more than before"
    assert ask(city, replicas=3).status_code == 202
    refused(ask(city, replicas=4), "needs 1 replicas more", "has 0 left")


def test_those_who_ask_at_once_share_what_is_left(city):
    allot(city, replicas=5)
    targets = [(name, target) for name in (NAME, OTHER) for target in ("challenger", "1")]
    with ThreadPoolExecutor(4) as pool:
        codes = list(pool.map(lambda one: ask(city, *one, replicas=2).status_code, targets))
    assert sorted(codes) == [202, 202, 403, 403]
    assert city.plane.catalogue.resolve(Ref(NAME, "challenger")) == 1


def test_no_version_is_promoted_that_is_too_large_for_what_follows_the_alias(city, tmp_path):
    lifecycle, history = city.plane.lifecycle, city.truths.history
    name = "tourism-boats"
    small_and_large(city, name, tmp_path)
    assert ask(city, name, "pilot", replicas=2).status_code == 202
    [use] = allotted(city, memory=10_000)
    allot(city, memory=use.taken.memory + 1000)
    with pytest.raises(AllotmentExceeded, match="needs 2000 bytes of models more"):
        lifecycle.promote(name, NewPromotion(version=2, alias="pilot"), SYSTEM)
    assert history.aliases(name)[name]["pilot"] == 1
    assert not history.promotions(name, "waiting")
    lifecycle.promote(name, NewPromotion(version=2, alias="staging"), SYSTEM)  # nothing runs there
    allot(city, memory=use.taken.memory + 2000)
    lifecycle.promote(name, NewPromotion(version=2, alias="pilot"), SYSTEM)
    allot(city, memory=1)
    lifecycle.promote(name, NewPromotion(version=1, alias="pilot"), SYSTEM)  # smaller than before
    assert history.aliases(name)[name]["pilot"] == 1


def test_what_waits_for_approval_is_looked_at_again(city, tmp_path):
    lifecycle, history = city.plane.lifecycle, city.truths.history
    name = "tourism-ferry"
    small_and_large(city, name, tmp_path)
    history.set_approval(name, "four-eyes", SYSTEM)
    asked = lifecycle.promote(name, NewPromotion(version=2, alias="pilot"), SYSTEM)
    assert ask(city, name, "pilot").status_code == 202
    [use] = allotted(city, memory=10_000)
    allot(city, memory=use.taken.memory)
    second = SYSTEM.model_copy(update={"key": "second"})
    with pytest.raises(AllotmentExceeded):
        lifecycle.approve(asked.id, second)
    allot(city)
    assert lifecycle.approve(asked.id, second).state == "done"


def allotted(world, **limits):
    allot(world, **limits)
    return world.plane.allotments.used()


def small_and_large(world, name, folder):
    """Two versions, of which the smaller is the pilot."""
    for size in (1000, 2000):
        register(world, name, {"notes.txt": b"0" * size}, folder=folder / str(size))
    world.plane.lifecycle.promote(name, NewPromotion(version=1, alias="pilot"), SYSTEM)
