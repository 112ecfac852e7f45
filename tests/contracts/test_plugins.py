"""Every plug-in on every shelf passes the same examination; a new file is examined by itself."""

import functools
import json

import msgspec
import numpy as np
import pytest
import yaml

from citybrain.core.errors import BadPackage, CityBrainError
from citybrain.evaluation.metric import BASELINES, METRICS
from citybrain.evaluation.scenario import scenarios
from citybrain.models.package import MANIFEST, Manifest, Package, data_digest
from citybrain.models.predictor import Predictor
from citybrain.models.recipe import RECIPES
from citybrain.models.runtime import RUNTIMES
from citybrain.models.task import TASKS, open_task
from citybrain.serving.protocols import task as task_protocol

BUDGET = 4.0
SEED = 3


@pytest.fixture(scope="session")
def data_of(tmp_path_factory):
    """A part of each recipe's generated data; what costs seconds to draw is drawn once."""

    @functools.cache
    def make(name, part):
        folder = tmp_path_factory.mktemp(f"{name}-{part}")
        return RECIPES.get(name).generate(folder, seed=SEED, part=part)

    return make


@pytest.fixture(scope="session")
def package_of(tmp_path_factory, data_of):
    """A package of each recipe, trained for a moment."""

    @functools.cache
    def make(name):
        folder = tmp_path_factory.mktemp(name) / "package"
        RECIPES.get(name).train(
            data_of(name, "train"), folder, seed=0, budget=BUDGET, progress=lambda *_: None
        )
        manifest = yaml.safe_load((folder / MANIFEST).read_text())
        manifest["lineage"] = {"recipe": name}
        (folder / MANIFEST).write_text(yaml.safe_dump(manifest))
        return folder

    return make


RECIPE_NAMES = RECIPES.names()


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_a_recipe_writes_a_package_that_opens_warms_up_and_answers(name, package_of):
    predictor = Predictor.open(package_of(name))
    assert predictor.package.manifest.name == name
    predictor.warm_up()
    example = predictor.task.example()
    results = predictor.predict(example)
    assert len(results) == len(example)
    assert all(isinstance(result, predictor.task.Output) for result in results)


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_a_batch_answers_like_its_items_one_by_one(name, package_of):
    predictor = Predictor.open(package_of(name))
    inputs = predictor.task.read(predictor.task.example())
    batched = predictor.infer([inputs] * 5)
    alone = predictor.infer([inputs])[0]
    for answer in batched:
        for key, array in alone.items():
            if array.dtype == object or array.dtype.kind in "ib":
                assert answer[key].tolist() == array.tolist()
            else:
                np.testing.assert_allclose(answer[key], array, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_outputs_are_those_of_the_signature(name, package_of):
    predictor = Predictor.open(package_of(name))
    inputs = predictor.task.read(predictor.task.example())
    (answer,) = predictor.infer([inputs])
    assert not isinstance(answer, CityBrainError)
    assert list(answer) == [spec.name for spec in predictor.signature.outputs]
    for spec in predictor.signature.outputs:
        spec.check(answer[spec.name])


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_one_bad_request_does_not_harm_its_neighbours(name, package_of):
    predictor = Predictor.open(package_of(name))
    good = predictor.task.read(predictor.task.example())
    first, bad, last = predictor.infer([good, {"nonsense": np.zeros(1)}, good])
    assert isinstance(bad, CityBrainError)
    assert not isinstance(first, CityBrainError)
    assert not isinstance(last, CityBrainError)


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_generated_data_are_reproducible_and_the_parts_differ(name, data_of, tmp_path):
    def again(seed):
        found = RECIPES.get(name).generate(tmp_path / str(seed), seed=seed, part="test")
        return data_digest(found)

    first = data_digest(data_of(name, "test"))
    assert again(SEED) == first
    assert data_digest(data_of(name, "train")) != first
    assert again(SEED + 1) != first


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_the_task_reads_what_the_recipe_generates(name, package_of, data_of):
    package = Package.open(package_of(name))
    task = open_task(package.manifest, package.folder)
    samples = task.samples(data_of(name, "test"))
    assert len(samples) > 20
    signature = task.signature()
    for sample in samples[:20]:
        assert signature.check_inputs(sample.inputs) == 1
        assert isinstance(sample.truth, task.Output)


OPTIONS = {
    "tensor": {
        "inputs": [{"name": "x", "dtype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "y", "dtype": "FP32", "shape": [-1, 2]}],
    },
    "tabular-classification": {"features": ["a", "b"], "labels": ["no", "yes"]},
    "text-classification": {"labels": ["no", "yes"]},
    "image-classification": {"labels": ["no", "yes"], "image_size": 32},
    "object-detection": {"labels": ["car"], "image_size": 64},
    "transcription": {"tokens": ["", *"0123456789"]},
    "speech-synthesis": {},
    "composition": {"example": [{"text": "any"}]},
    "forecasting": {"context": 12, "horizon": 3, "step_seconds": 300},
}


@pytest.mark.parametrize("name", TASKS.names())
class TestTask:
    def task(self, name):
        manifest = Manifest.model_validate(
            {
                "name": "any-name",
                "title": {"zh": "甲", "en": "A"},
                "task": name,
                "runtime": "onnx",
                "weights": "x.onnx",
                "domain": "traffic",
                "owner": "traffic",
                "licence": "MIT",
                "options": OPTIONS[name],
            }  # fmt: skip
        )
        return open_task(manifest)

    def test_the_example_is_valid_json_that_reads_into_the_signature(self, name):
        task = self.task(name)
        body = msgspec.json.encode({"inputs": task.example()})
        tensors = task.read(task_protocol.items(body, task))
        assert task.signature().check_inputs(tensors) == len(task.example())

    def test_every_batch_axis_is_free(self, name):
        signature = self.task(name).signature()
        assert all(spec.shape[0] == -1 for spec in (*signature.inputs, *signature.outputs))

    def test_unknown_options_are_refused(self, name):
        with pytest.raises(BadPackage, match="options"):
            manifest = self.task(name).options.model_dump() | {"colour": 1}
            OPTIONS_BEFORE = OPTIONS[name]
            try:
                OPTIONS[name] = manifest
                self.task(name)
            finally:
                OPTIONS[name] = OPTIONS_BEFORE

    def test_default_metrics_are_metrics_of_this_task(self, name):
        for metric in TASKS.get(name).default_metrics:
            assert name in METRICS.get(metric).tasks

    def test_bad_items_are_refused_with_a_sentence(self, name):
        task = self.task(name)
        for body in (b'{"inputs":[{}]}', b'{"inputs":[{"colour":1}]}', b'{"inputs":[null]}'):
            with pytest.raises(CityBrainError):
                task.read(task_protocol.items(body, task))


@pytest.mark.parametrize("name", RUNTIMES.names())
def test_a_runtime_refuses_broken_weights_with_the_reason(name, tmp_path):
    weights = {"onnx": "m.onnx", "ultralytics": "m.onnx", "torch": "m.safetensors",
               "transformers": "config.json", "triton": "remote.json"}.get(name, "m.onnx")  # fmt: skip
    (tmp_path / weights).write_bytes(b"not what it says")
    manifest = {
        "name": "any-name", "title": {"zh": "甲", "en": "A"}, "task": "text-classification",
        "runtime": name, "weights": weights, "domain": "traffic", "owner": "traffic",
        "licence": "MIT", "options": OPTIONS["text-classification"],
        "lineage": {"recipe": "traffic-flow"},
    }  # fmt: skip
    (tmp_path / MANIFEST).write_text(yaml.safe_dump(manifest))
    with pytest.raises(BadPackage):
        RUNTIMES.get(name).load(Package.open(tmp_path))


@pytest.mark.parametrize("name", METRICS.names())
def test_a_metric_says_what_it_is_for(name):
    metric = METRICS.get(name)
    assert metric.tasks
    assert set(metric.tasks) <= set(TASKS.names())
    assert isinstance(metric.greater_is_better, bool)


@pytest.mark.parametrize("name", sorted(scenarios()))
def test_a_shipped_scenario_fits_its_recipe_metrics_and_baseline(name):
    scenario = scenarios()[name]
    assert scenario.task in BASELINES.get(scenario.baseline).tasks
    assert scenario.data.recipe in RECIPES.names()
    assert RECIPES.get(scenario.data.recipe).task == scenario.task
    assert json.dumps(scenario.model_dump())


@pytest.mark.parametrize("name", sorted(scenarios()))
def test_perfect_answers_are_better_than_the_baseline(name, package_of, data_of):
    """Metrics point the right way: the truth itself beats the baseline on the first metric."""
    scenario = scenarios()[name]
    package = Package.open(package_of(scenario.data.recipe))
    task = open_task(package.manifest, package.folder)
    samples = task.samples(data_of(scenario.data.recipe, "test"))[:60]
    truths = [sample.truth for sample in samples]
    metric = METRICS.get(scenario.metrics[0])
    perfect = metric.score(truths, truths)
    baseline = metric.score(truths, BASELINES.get(scenario.baseline).answer(samples, task))
    assert (perfect > baseline) == metric.greater_is_better
    assert perfect != baseline
