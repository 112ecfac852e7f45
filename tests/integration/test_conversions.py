"""Other forms of a version: ONNX in its place where it is faster, INT8 as a version of its own."""

import json
import shutil
import time
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from support_models import write_package

from citybrain.core.errors import (
    BadPackage,
    Conflict,
    DigestMismatch,
    InvalidInput,
    Overloaded,
    SignatureWrong,
)
from citybrain.core.schemas import NewConversion, NewEvaluation
from citybrain.core.settings import Settings
from citybrain.models.predictor import Predictor
from citybrain.models.recipe import RECIPES
from citybrain.platform.wiring import SYSTEM, build
from citybrain.registry.admission.converting import convert
from citybrain.registry.admission.samples import put_data
from citybrain.registry.catalogue import SIGNED
from citybrain.registry.intake import UPLOADS
from citybrain.registry.runs import DIGEST, FORM, forms_in

ZOO = Path(str(resources.files("citybrain.models") / "zoo"))


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    found = build(Settings(home=tmp_path_factory.mktemp("forms") / "home"))
    found.conversion.start()
    found.evaluation.start()
    return found


def forecaster(folder):
    """The network of the recipe traffic-flow, untrained, as a package of the torch runtime."""
    options = {
        "context": 48, "min_context": 12, "horizon": 6, "quantiles": [0.1, 0.5, 0.9],
        "step_seconds": 300, "calendar": True, "timezone": "Asia/Shanghai",
    }  # fmt: skip
    torch.manual_seed(5)
    folder.mkdir()
    save_file(
        RECIPES.get("traffic-flow").network(options).state_dict(), folder / "model.safetensors"
    )
    manifest = {
        "name": "flow", "title": {"zh": "车流", "en": "Flow"}, "task": "forecasting",
        "runtime": "torch", "weights": "model.safetensors", "domain": "traffic",
        "owner": "traffic", "licence": "MIT", "options": options,
        "lineage": {"recipe": "traffic-flow"},
    }  # fmt: skip
    (folder / "algorithm.yaml").write_text(yaml.safe_dump(manifest, allow_unicode=True))
    return folder


def starter(name):
    return lambda folder: shutil.copytree(ZOO / name, folder)


def tiny(family):
    return lambda folder: write_package(family, folder)


SOURCES = {
    "bert": tiny("bert"),
    "vit": tiny("vit"),
    "wav2vec2": tiny("wav2vec2"),
    "patchtst": tiny("patchtst"),
    "spoken-digits": starter("spoken-digits"),
    "hotline-router": starter("hotline-router"),
    "traffic-flow": forecaster,
}
SOON = ("bert", "spoken-digits", "traffic-flow")
"""One of each way; make trust runs all."""


@pytest.mark.parametrize(
    "source",
    [name if name in SOON else pytest.param(name, marks=pytest.mark.full) for name in SOURCES],
)
def test_the_onnx_form_gives_every_output_of_its_source(source, tmp_path, parity):
    folder = SOURCES[source](tmp_path / "in")
    report = convert(tmp_path, {"parent": "x@1"})
    parity(source, report)
    assert all(gap["relative"] <= 1e-3 for gap in report["parity"].values())
    assert report["calls"] >= 4
    before, after = (Predictor.open(side) for side in (folder, tmp_path / "out"))
    assert after.package.manifest.runtime == "onnx"
    assert after.package.manifest.lineage.source == "x@1"
    call = before.task.read(before.task.example())
    for name, array in before.infer([call])[0].items():
        found = after.infer([call])[0][name]
        if array.dtype == np.object_ or array.dtype.kind in "iub":
            assert found.tolist() == array.tolist()
        else:
            np.testing.assert_allclose(found, array, rtol=1e-3, atol=1e-3)


def test_what_torch_cannot_export_keeps_its_own_form(tmp_path):
    write_package("patchtst", tmp_path / "in", build={"loss": "nll"}, head="student-t")
    with pytest.raises(BadPackage, match="ONNX"):
        convert(tmp_path, {"parent": "x@1"})


@pytest.mark.parametrize(
    ("family", "build", "reason"),
    [("whisper", {}, "token by token"), ("vits", {}, "each text alone"),
     ("wav2vec2", {"norm": "group"}, "each sound alone")],
)  # fmt: skip
def test_what_is_no_single_network_keeps_its_own_form(family, build, reason, tmp_path):
    write_package(family, tmp_path / "in", build=build)
    with pytest.raises(BadPackage, match=reason):
        convert(tmp_path, {"parent": "x@1"})


def test_an_onnx_version_is_not_converted_again(tmp_path):
    package(tmp_path / "in", 8)
    with pytest.raises(BadPackage, match="ONNX already"):
        convert(tmp_path, {"parent": "x@1"})


def test_a_form_that_answers_differently_on_real_samples_is_refused(tmp_path, monkeypatch):
    write_package("bert", tmp_path / "in")
    (tmp_path / "calls.csv").write_text("text,label\n" + "road broken " * 3 + ",a\n")
    put_data(tmp_path / "calls.csv", tmp_path)
    from citybrain.models.onnx_session import OnnxSession

    honest = OnnxSession.run

    def lies_about_that_text(self, inputs):
        found = honest(self, inputs)
        ids = inputs["input_ids"]
        if ids.shape[0] == 1 and int((inputs["attention_mask"][0]).sum()) == 8:
            found = {name: array + 1 for name, array in found.items()}
        return found

    monkeypatch.setattr(OnnxSession, "run", lies_about_that_text)
    with pytest.raises(BadPackage, match="deviates"):
        convert(tmp_path, {"parent": "x@1"})


def done(plane, asked):
    deadline = time.monotonic() + 120
    while (found := plane.truths.conversions.get(asked.id)).state in ("waiting", "running"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def test_a_conversion_is_a_job_and_its_form_is_served_when_it_is_faster(plane):
    name = plane.intake.take(ZOO / "spoken-digits", SYSTEM).algorithm
    source, digest = plane.catalogue.folder(name, 1)
    assert plane.forms.served(name, 1, 0).form == "source"
    wanted = NewConversion(scenario="emergency-number")
    asked = plane.conversion.ask(name, "1", wanted, SYSTEM)
    with pytest.raises(Conflict, match="already"):
        plane.conversion.ask(name, "1", NewConversion(), SYSTEM)
    found = done(plane, asked)
    assert (found.state, found.made, found.error) == ("done", 1, {})
    assert found.report["samples"] == 16
    version = plane.catalogue.versions(name)[0]
    (form,) = version.forms
    assert form.served == (form.milliseconds < form.source_milliseconds)
    assert form.served, "ONNX is several times as fast here"
    served = plane.forms.served(name, 1, plane.truths.deployments.revision())
    assert (served.form, served.digest, served.manifest.runtime) == ("onnx", form.digest, "onnx")
    assert (version.digest, plane.catalogue.folder(name, 1)) == (digest, (source, digest))
    report = plane.forms.admission(version)["forms"]["onnx"]
    assert report["parity"].keys() == {"logits", "frames"}


def test_a_form_and_its_version_are_vouched_for_apart(plane):
    """Whoever writes to MLflow's tags cannot put the one in the other's place."""
    client, name = plane.catalogue.client, "spoken-digits"
    before = dict(client.get_model_version(name, "1").tags)
    form = json.loads(before[f"{FORM}onnx"])
    for tag, value in ((DIGEST, form["digest"]), (SIGNED, form["signed"])):
        client.set_model_version_tag(name, "1", tag, value)
    with pytest.raises(SignatureWrong, match="another version, form or files"):
        plane.catalogue.folder(name, 1)
    for tag in (DIGEST, SIGNED):
        client.set_model_version_tag(name, "1", tag, before[tag])
    swapped = json.dumps({**form, "digest": before[DIGEST], "signed": before[SIGNED]})
    client.set_model_version_tag(name, "1", f"{FORM}onnx", swapped)
    with pytest.raises(SignatureWrong, match="The onnx form of spoken-digits@1"):
        plane.forms.served(name, 1, -3)
    client.set_model_version_tag(name, "1", f"{FORM}onnx", before[f"{FORM}onnx"])
    assert plane.forms.served(name, 1, -4).form == "onnx"


def test_a_lost_copy_of_a_form_comes_back_and_a_changed_one_is_refused(plane):
    (form,) = plane.catalogue.versions("spoken-digits")[0].forms
    copy = plane.truths.home.packages / form.digest
    shutil.rmtree(copy)
    assert plane.forms.served("spoken-digits", 1, -1).folder == copy
    shutil.rmtree(copy)
    kept = next((plane.truths.home.mlflow / "artifacts").rglob("forms/onnx/model.onnx"))
    raw = bytearray(kept.read_bytes())
    raw[len(raw) // 2] ^= 1
    kept.write_bytes(raw)
    with pytest.raises(DigestMismatch, match="not the one that was admitted"):
        plane.forms.served("spoken-digits", 1, -2)
    raw[len(raw) // 2] ^= 1
    kept.write_bytes(raw)


def test_a_deleted_version_takes_its_forms_along(plane):
    (form,) = plane.catalogue.versions("spoken-digits")[0].forms
    plane.undertaker.withdraw("spoken-digits", 1, "a mistake", SYSTEM)
    plane.undertaker.delete("spoken-digits", 1, SYSTEM)
    assert not (plane.truths.home.packages / form.digest).exists()
    assert not list((plane.truths.home.mlflow / "artifacts").rglob("forms/onnx/model.onnx"))


def test_a_failed_conversion_says_why_and_changes_nothing(plane, tmp_path):
    name = plane.intake.take(package(tmp_path / "net", 8), SYSTEM).algorithm
    found = done(plane, plane.conversion.ask(name, "1", NewConversion(), SYSTEM))
    assert (found.state, found.error["code"]) == ("failed", "bad_package")
    assert "ONNX already" in found.error["message"]
    assert plane.catalogue.versions(name)[0].forms == []
    with pytest.raises(InvalidInput, match="examines"):
        plane.conversion.ask(name, "1", NewConversion(scenario="emergency-number"), SYSTEM)


def test_what_a_stop_interrupted_says_so_and_what_waited_is_done(plane):
    records = plane.truths.conversions
    first = records.start("some", 1, "onnx", "", SYSTEM)
    second = records.start("some", 2, "onnx", "", SYSTEM)
    records.running(first.id)
    assert records.recover() == [second.id]
    assert records.get(first.id).error["code"] == "interrupted"
    records.failed(second.id, "error", "enough")


TOLD = '{"digest": "d", "milliseconds": %s, "source_milliseconds": 2.0, "serving": "%s"}'


@pytest.mark.parametrize(
    ("milliseconds", "serving", "served"),
    [(1.0, "auto", True), (3.0, "auto", False), (1.0, "source", False)],
)
def test_the_form_is_served_only_when_it_is_faster_and_may_be(milliseconds, serving, served):
    (form,) = forms_in({"citybrain.form.onnx": TOLD % (milliseconds, serving), "other": "tag"})
    assert form.served is served


@pytest.mark.parametrize("text", ["", "[]", "{}", "1", '{"milliseconds": "x"}'])
def test_what_a_stranger_wrote_is_no_form(text):
    assert forms_in({"citybrain.form.onnx": text}) == []


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
    found = done(plane, plane.conversion.ask("net-2048", "1", NewConversion(form="int8"), SYSTEM))
    assert (first.version, found.state, found.made) == (1, "done", 2)
    assert plane.catalogue.versions("net-2048")[0].lineage["source"] == "net-2048@1"
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


SCENARIO = """
name: wide-net
title: {{zh: 宽网, en: Wide net}}
domain: traffic
question: Which of three kinds is a row of sixteen numbers?
task: tabular-classification
data: {{path: {data}}}
metrics: [accuracy, macro-f1]
baseline: majority
gate:
  - {{metric: accuracy, at_least: 0.9}}
owner: traffic
"""


def test_what_an_int8_form_loses_in_a_scenario_is_in_its_report(plane, tmp_path):
    """Also without --scenario: the algorithm's last exam says which one."""
    folder = package(tmp_path / "net", 3000)
    rows = np.random.default_rng(3).standard_normal((400, 16)).astype(np.float32)
    predictor = Predictor.open(folder)
    table = pd.DataFrame(rows, columns=[f"x{n}" for n in range(16)])
    found = predictor.infer([{"features": rows}])[0]["probabilities"].argmax(axis=1)
    table.assign(label=np.array(["a", "b", "c"])[found]).to_csv(tmp_path / "d.csv", index=False)
    plane.truths.home.scenarios.mkdir(exist_ok=True)
    text = SCENARIO.format(data=tmp_path / "d.csv")
    (plane.truths.home.scenarios / "wide-net.yaml").write_text(text)
    plane.intake.take(folder, SYSTEM)
    new = NewEvaluation(algorithm="net-3000", target="1")
    exam = plane.evaluation.result(plane.evaluation.ask("wide-net", new, SYSTEM).id)
    assert exam.report["metrics"]["accuracy"]["value"] == 1.0
    asked = plane.conversion.ask("net-3000", "1", NewConversion(form="int8"), SYSTEM)
    found = done(plane, asked)
    assert (found.state, found.made) == ("done", 2), found.error
    assert (found.scenario, found.report["samples"]) == ("wide-net", 16)
    exams = plane.truths.evaluations.find(algorithm="net-3000", limit=10)
    assert sorted(exam.version for exam in exams) == [1, 1, 2]
    loss = found.report["loss"]["accuracy"]
    assert loss["before"]["value"] == 1.0
    assert 0.9 < loss["after"]["value"] < 1.0, "the labels are those of the source"
    assert loss["after"]["low"] <= loss["after"]["value"] <= loss["after"]["high"]


def test_more_uploads_than_there_are_places_are_refused_before_they_are_read(plane, tmp_path):
    package(tmp_path / "net", 8)
    places = plane.intake._uploads
    for _ in range(UPLOADS):
        assert places.acquire(blocking=False)
    try:
        with pytest.raises(Overloaded, match="uploads are being examined"):
            plane.intake.take(tmp_path / "net", SYSTEM)
    finally:
        places.release(UPLOADS)
    assert plane.intake.take(tmp_path / "net", SYSTEM).version >= 1


def test_where_nothing_gets_smaller_nothing_is_registered(plane, tmp_path):
    plane.intake.take(package(tmp_path / "net", 2), SYSTEM)
    found = done(plane, plane.conversion.ask("net-2", "1", NewConversion(form="int8"), SYSTEM))
    assert (found.state, found.made) == ("failed", 0)
    assert "would not get smaller" in found.error["message"]
    assert [v.version for v in plane.catalogue.versions("net-2")] == [1]


def test_trees_have_no_weights_to_make_smaller(plane, tmp_path):
    from skl2onnx import to_onnx
    from sklearn.ensemble import RandomForestClassifier

    table = np.random.default_rng(2).random((60, 16), np.float32)
    forest = RandomForestClassifier(3, random_state=0).fit(table, np.arange(60) % 3)
    graph = to_onnx(forest, table[:1], options={"zipmap": False})
    folder = package(tmp_path / "forest", 2)
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    manifest = yaml.safe_load((folder / "algorithm.yaml").read_text())
    (folder / "algorithm.yaml").write_text(yaml.safe_dump(manifest | {"name": "forest"}))
    plane.intake.take(folder, SYSTEM)
    found = done(plane, plane.conversion.ask("forest", "1", NewConversion(form="int8"), SYSTEM))
    assert "decides by trees" in found.error["message"]
    assert "fewer or shallower trees" in found.error["hint"]
    assert [v.version for v in plane.catalogue.versions("forest")] == [1]
