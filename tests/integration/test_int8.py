"""A version's INT8 form is a version of its own: smaller, close, and examined like any other."""

import numpy as np
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from citybrain.core.errors import BadPackage
from citybrain.core.settings import Settings
from citybrain.models.predictor import Predictor
from citybrain.platform.wiring import SYSTEM, build


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    return build(Settings(home=tmp_path_factory.mktemp("int8") / "home"))


def package(folder, width):
    """A network of two layers: `width` decides whether there is anything to gain."""
    rng = np.random.default_rng(4)
    weights = {
        "w1": rng.standard_normal((16, width)).astype(np.float32) / 4,
        "w2": rng.standard_normal((width, 3)).astype(np.float32) / width**0.5,
    }
    nodes = [
        helper.make_node("MatMul", ["features", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w2"], ["c"]),
        helper.make_node("Softmax", ["c"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    folder.mkdir()
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    manifest = {
        "name": f"net-{width}", "title": {"zh": "网", "en": "Net"}, "runtime": "onnx",
        "task": "tabular-classification", "weights": "model.onnx", "domain": "traffic",
        "owner": "platform", "licence": "MIT",
        "options": {"features": [f"x{n}" for n in range(16)], "labels": ["a", "b", "c"]},
    }  # fmt: skip
    (folder / "algorithm.yaml").write_text(yaml.safe_dump(manifest, allow_unicode=True))
    return folder


def test_the_int8_form_is_a_quarter_of_the_size_and_answers_alike(plane, tmp_path):
    first = plane.intake.take(package(tmp_path / "net", 2048), SYSTEM)
    found = plane.intake.to_int8("net-2048", first.version, SYSTEM)
    assert (found.version, found.lineage["source"]) == (2, "net-2048@1")
    report = plane.catalogue.report("net-2048", 2)
    assert report["bytes"][1] < 0.35 * report["bytes"][0]
    assert 0 < report["parity"]["probabilities"]["relative"] < 0.1
    assert all(milliseconds > 0 for milliseconds in report["speed"])
    rows = {"features": np.random.default_rng(1).standard_normal((64, 16)).astype(np.float32)}
    answers = [
        Predictor.open(plane.catalogue.folder("net-2048", v)[0]).infer([rows])[0] for v in (1, 2)
    ]
    gap = np.abs(answers[0]["probabilities"] - answers[1]["probabilities"]).max()
    assert 0 < gap < 0.1
    graph = plane.lineage.around("net-2048", [2])
    assert any(e.source.endswith("@1") and e.target.endswith("@2") for e in graph.edges)


def test_where_nothing_gets_smaller_nothing_is_registered(plane, tmp_path):
    first = plane.intake.take(package(tmp_path / "net", 2), SYSTEM)
    with pytest.raises(BadPackage, match="would not get smaller"):
        plane.intake.to_int8("net-2", first.version, SYSTEM)
    assert [v.version for v in plane.catalogue.versions("net-2")] == [1]
