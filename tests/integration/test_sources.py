"""One model of each source goes through admission and answers like its source; code does not."""

import functools
import http.server
import json
import os
import shutil
import threading
import zipfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import yaml
from support_models import BUILDERS, manifest_of, write_package

from citybrain.core.errors import BadPackage, InvalidInput, Unavailable, VersionNotFound
from citybrain.core.settings import IntakeSettings
from citybrain.models.predictor import Predictor
from citybrain.registry.admission import mlflow_folder
from citybrain.registry.admission.admit import NO_DATA, admit
from citybrain.registry.admission.pickles import tripwire
from citybrain.registry.sandbox import Isolation, Limits, isolation
from citybrain.registry.sources import fetch
from citybrain.serving.desk import Desk
from citybrain.serving.wire import Call

FULL = "TRUST_FULL" in os.environ
CARD = {"name": "try-me", "owner": "traffic", "licence": "Apache-2.0", "domain": "traffic"}
needs_namespaces = pytest.mark.skipif(
    isolation()[0] is Isolation.none, reason=f"no namespaces here: {isolation()[1]}"
)


@pytest.fixture(scope="module")
def iris():
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    table, labels = load_iris(return_X_y=True, as_frame=True)
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(table, labels), table


@pytest.fixture(scope="module")
def network():
    """A small convolution that takes pictures of 32 pixels, exported with any number of rows."""
    import torch

    torch.manual_seed(3)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=4), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(8 * 8 * 8, 4),
    ).eval()  # fmt: skip
    rows = torch.export.Dim("rows", min=1, max=64)
    return torch.export.export(layers, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=({0: rows},))


PICTURES = {"task": "image-classification", "options": {"labels": list("abcd"), "image_size": 32}}


def take(source, tmp_path, data=NO_DATA, **card):
    found = admit(source, tmp_path / "admission", CARD | card, Limits(seconds=300), data=data)
    return Predictor.open(found.folder), found.report


def check_iris(predictor, iris):
    model, table = iris
    rows = [{"features": dict(row)} for row in table.head(5).to_dict("records")]
    answers = predictor.predict([predictor.task.Input(**row) for row in rows])
    wanted = model.predict_proba(table.head(5))
    for answer, row in zip(answers, wanted, strict=True):
        np.testing.assert_allclose(list(answer.probabilities.values()), row, rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(not FULL, reason="what MLflow logged as skops goes the same way; make trust")
def test_a_pipeline_that_skops_wrote(iris, tmp_path):
    import skops.io

    skops.io.dump(iris[0], tmp_path / "iris.skops")
    predictor, report = take(tmp_path / "iris.skops", tmp_path)
    assert predictor.package.manifest.task == "tabular-classification"
    assert report["converter"] == "sklearn"
    assert report["parity"]["probabilities"]["relative"] < 1e-3
    check_iris(predictor, iris)


def test_a_graph_from_skl2onnx_passes_its_own_tensors_through(iris, tmp_path):
    from skl2onnx import to_onnx

    model, table = iris
    graph = to_onnx(model, table.head(1).to_numpy(np.float32), options={"zipmap": False})
    (tmp_path / "iris.onnx").write_bytes(graph.SerializeToString())
    predictor, report = take(tmp_path / "iris.onnx", tmp_path)
    assert predictor.package.manifest.task == "tensor"
    inputs = {"X": table.head(3).to_numpy(np.float32)}
    answer = predictor.infer([inputs])[0]
    np.testing.assert_allclose(
        answer["probabilities"], model.predict_proba(table.head(3)), rtol=1e-3
    )
    assert "Scaler" in report["examined"]["graph"]["operators"]


@pytest.mark.full
def test_an_exported_torch_program(network, tmp_path):
    import torch

    torch.export.save(network, tmp_path / "net.pt2")
    predictor, report = take(tmp_path / "net.pt2", tmp_path, **PICTURES)
    assert next(iter(report["parity"].values()))["relative"] < 1e-3
    pictures = np.random.default_rng(1).random((2, 3, 32, 32), np.float32)
    with torch.inference_mode():
        wanted = network.module()(torch.from_numpy(pictures)).numpy()
    (found,) = predictor.runtime.infer({"images": pictures}).values()
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)


def test_an_exported_program_of_numbers_passes_its_tensors_through(tmp_path):
    import torch

    class Pair(torch.nn.Module):
        def forward(self, a, b):
            return {"sum": a + b, "product": a * b}

    example = (torch.ones(1, 4), torch.ones(1, 4))  # with a fixed row: calls go one by one
    torch.export.save(torch.export.export(Pair(), example), tmp_path / "pair.pt2")
    predictor, _ = take(tmp_path / "pair.pt2", tmp_path)
    manifest = predictor.package.manifest
    assert (manifest.task, manifest.max_batch) == ("tensor", 1)
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    first, second = (tensor.name for tensor in predictor.signature.inputs)
    answer = predictor.infer([{first: rows, second: rows}])[0]
    np.testing.assert_allclose(sorted(v.sum() for v in answer.values()), [132.0, 506.0])


def test_pictures_without_a_task_are_not_guessed(tmp_path):
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("GlobalAveragePool", ["x"], ["y"])], "pool",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 1, 1])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (tmp_path / "pool.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BadPackage, match="does not say what it answers") as refused:
        take(tmp_path / "pool.onnx", tmp_path / "a")
    assert "--task" in refused.value.hint
    predictor, _ = take(tmp_path / "pool.onnx", tmp_path / "b", task="tensor")
    assert predictor.package.manifest.task == "tensor"


@pytest.mark.parametrize("family", sorted(BUILDERS) if FULL else ["vits"])
def test_a_transformers_folder_tells_its_task_and_options(family, tmp_path):
    """What save_pretrained wrote is enough, but for what no file says: the clock of a series.

    `make test` tries one family here, and BERT as MLflow logs it.
    """
    folder = tmp_path / "folder"
    folder.mkdir()
    BUILDERS[family](folder)
    said = {"patchtst": {"step_seconds": 300}, "whisper": {"language": "en", "max_new_tokens": 12}}
    ours, _ = take(folder, tmp_path, options=said.get(family, {}))
    assert ours.package.manifest.task == manifest_of(family)["task"]
    assert ours.package.manifest.runtime == "transformers"
    reference = Predictor.open(write_package(family, tmp_path / "by-hand"))
    items = ours.task.example()
    assert ours.predict(items) == reference.predict(items)


@needs_namespaces
@pytest.mark.full
def test_weights_alone_with_an_architecture_of_torchvision(tmp_path):
    import torch
    import torchvision
    from safetensors.torch import save_file

    model = torchvision.models.squeezenet1_1(weights=None, num_classes=5).eval()
    save_file(model.state_dict(), str(tmp_path / "w.safetensors"))
    if FULL:  # half a minute of importing torch
        with pytest.raises(BadPackage, match="without an architecture"):
            take(tmp_path / "w.safetensors", tmp_path / "a")
    torch.save(model.state_dict(), tmp_path / "squeezenet1_1-0123abcd.pth")
    predictor, _ = take(
        tmp_path / "squeezenet1_1-0123abcd.pth", tmp_path / "b", options={"image_size": 64}
    )
    assert predictor.package.manifest.options["labels"] == [f"class-{n}" for n in range(5)]
    pictures = np.random.default_rng(1).random((2, 3, 64, 64), np.float32)
    with torch.inference_mode():
        wanted = model(torch.from_numpy(pictures)).numpy()
    (found,) = predictor.runtime.infer({"images": pictures}).values()
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


@needs_namespaces
def test_a_yolo_checkpoint_is_served_without_ultralytics(tmp_path):
    ultralytics = pytest.importorskip("ultralytics")
    ultralytics.YOLO("yolo11n.yaml", verbose=False).save(str(tmp_path / "best.pt"))
    predictor, report = take(tmp_path / "best.pt", tmp_path, options={"image_size": 64})
    assert predictor.package.manifest.runtime == "ultralytics"
    assert predictor.package.manifest.task == "object-detection"
    assert predictor.predict(predictor.task.example())[0].objects == []
    assert report["parity"]["output0"]["relative"] < 1e-3
    assert any("ultralytics" in line for line in report["scan"])
    assert report["scan"][-1] == "fickling: likely unsafe", "which it says of every checkpoint"


@pytest.mark.parametrize(
    ("line", "says"),
    [(b"cos\nsystem\n", "would import os.system"), (b"cshelve\nopen\n", "is overtly malicious")],
)
def test_either_tripwire_ends_what_it_holds_to_be_an_attack(line, says, tmp_path):
    """The allow-list would have refused both before; of the second, picklescan is not sure."""
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("w/data.pkl", b"\x80\x04" + line + b"(X\x01\x00\x00\x00xtR.")
    with pytest.raises(BadPackage, match=says):
        tripwire(tmp_path / "w.pt")


@needs_namespaces
def test_a_whole_pickled_model_is_refused_with_the_safe_way(tmp_path):
    import torch
    import torchvision

    torch.save(torchvision.models.squeezenet1_1(weights=None), tmp_path / "whole.pt")
    with pytest.raises(BadPackage, match="torchvision.models.squeezenet") as refused:
        take(tmp_path / "whole.pt", tmp_path)
    assert "torch.export.save" in refused.value.hint


def test_without_namespaces_a_pickle_is_refused_with_the_reason(tmp_path):
    import torch

    torch.save({"a": torch.zeros(2)}, tmp_path / "w.pt")
    card = CARD | {"architecture": "torchvision:squeezenet1_1"}
    with pytest.raises(BadPackage, match="no namespaces"):
        admit(tmp_path / "w.pt", tmp_path / "w", card, Limits(), how=Isolation.none)


@pytest.fixture(scope="module")
def starter(tmp_path_factory):
    """A package of the project's own: a tabular ONNX algorithm."""
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    folder = tmp_path_factory.mktemp("starter") / "crowd"
    folder.mkdir()
    model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    graph = to_onnx(model, np.zeros((1, 1), np.float32), options={"zipmap": False})
    del graph.graph.output[0]
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    (folder / "algorithm.yaml").write_text(
        "format: 1\nname: crowd\ntitle: {zh: 客流, en: Crowd}\ntask: tabular-classification\n"
        "runtime: onnx\nweights: model.onnx\ndomain: tourism\nowner: tourism\nlicence: MIT\n"
        "options: {features: [a], labels: [low, high]}\n"
    )
    return folder


@pytest.mark.parametrize(
    ("kind", "wrapped"),
    [
        ("zip", True),
        ("zip", False),
        ("tar", False),
        ("gztar", True),
        ("bztar", True),
        ("xztar", True),
    ],
)
def test_an_archive_of_a_package(starter, tmp_path, kind, wrapped):
    root, base = (starter.parent, "crowd") if wrapped else (starter, ".")
    archive = Path(shutil.make_archive(str(tmp_path / "crowd"), kind, root, base))
    found = admit(archive, tmp_path / "admission", {"name": "crowd"}, Limits(seconds=300))
    predictor = Predictor.open(found.folder)
    assert predictor.predict(predictor.task.example())[0].label in ("low", "high")


@pytest.mark.parametrize("missing", ["owner", "licence", "domain"])
def test_what_a_card_must_say(starter, tmp_path, missing):
    with pytest.raises(BadPackage, match=missing):
        take(starter / "model.onnx", tmp_path, **{missing: ""})


@pytest.fixture(scope="module")
def numbers():
    """A small torch module of numbers."""
    import torch

    torch.manual_seed(5)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A tiny pipeline of transformers."""
    import transformers

    folder = tmp_path_factory.mktemp("bert")
    BUILDERS["bert"](folder)
    return transformers.pipeline("text-classification", model=str(folder), tokenizer=str(folder))


@pytest.fixture(scope="module")
def logged(tmp_path_factory, iris, numbers, words):
    """An MLflow home with a run that logged a model of each flavor; name to what MLflow says of it."""
    import mlflow
    import skl2onnx

    folder = tmp_path_factory.mktemp("mlflow")
    address = f"sqlite:///{folder}/mlflow.db"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(address)
    mlflow.create_experiment("sources", artifact_location=(folder / "artifacts").as_uri())
    mlflow.set_experiment("sources")

    class Doubler(mlflow.pyfunc.PythonModel):
        def predict(self, model_input: list[float]):
            return model_input

    model, table = iris
    graph = skl2onnx.to_onnx(model, table.head(1).to_numpy(np.float32), options={"zipmap": False})
    example = np.zeros((2, 4), np.float32)
    # Else MLflow loads each model in a process of its own, to see what it imports.
    told = {"pip_requirements": ["mlflow"]}
    with mlflow.start_run():
        found = [
            mlflow.onnx.log_model(graph, name="onnx", **told),
            mlflow.sklearn.log_model(
                model, name="sklearn", serialization_format="skops", **told
            ),
            mlflow.sklearn.log_model(
                model, name="pickle", serialization_format="cloudpickle", **told
            ),
            mlflow.pytorch.log_model(numbers, name="torch", input_example=example, **told),
            mlflow.pytorch.log_model(
                numbers, name="torch-pickle", serialization_format="pickle", **told
            ),
            mlflow.transformers.log_model(words, name="transformers", **told),
            mlflow.pyfunc.log_model(name="code", python_model=Doubler(), **told),
        ]  # fmt: skip
    mlflow.set_tracking_uri(before)
    return mlflow.MlflowClient(address), {info.name: info for info in found}


def from_mlflow(logged, name, tmp_path, data=NO_DATA, **card):
    client, infos = logged
    address = f"runs:/{infos[name].run_id}/{name}"
    source, _ = fetch(address, tmp_path / "fetched", client, IntakeSettings())
    return take(source, tmp_path, data, **card)


def ask(predictor, *items):
    """The results of a call of the task API, as a replica answers it."""
    body = json.dumps({"inputs": items}).encode()
    (reply,) = Desk(predictor, 1).answer([Call("task", body, -1, "application/json", "r")])
    assert not reply.code, reply.body
    return json.loads(reply.body)["results"]


def test_an_mlflow_model_of_scikit_learn(logged, iris, tmp_path):
    data = tmp_path / "iris.csv"
    iris[1].assign(label=0).to_csv(data, index=False)
    predictor, report = from_mlflow(logged, "sklearn", tmp_path, data=lambda: nullcontext(data))
    assert (report["calls"], report["samples"], report["unread"]) == (3, 16, "")
    assert all(milliseconds > 0 for milliseconds in report["speed"])
    assert all(size > 0 for size in report["bytes"])
    assert (report["kind"], report["converter"]) == ("mlflow sklearn", "sklearn")
    assert predictor.package.manifest.task == "tabular-classification"
    assert report["parity"]["probabilities"]["relative"] < 1e-3
    check_iris(predictor, iris)


def test_samples_that_cannot_be_read_are_told_and_end_nothing(logged, tmp_path):
    data = tmp_path / "other.csv"
    data.write_text("size,label\n1,a\n")
    _, report = from_mlflow(logged, "sklearn", tmp_path, data=lambda: nullcontext(data))
    assert (report["calls"], report["samples"]) == (3, 0)
    assert "lacks the columns" in report["unread"]


def test_an_mlflow_model_of_onnx_whose_pyfunc_only_wraps_it(logged, iris, tmp_path):
    predictor, report = from_mlflow(logged, "onnx", tmp_path)
    assert report["kind"] == "mlflow onnx"
    model, table = iris
    answers = ask(predictor, *({"tensors": {"X": row}} for row in table.head(3).values.tolist()))
    found = [answer["tensors"]["probabilities"] for answer in answers]
    np.testing.assert_allclose(found, model.predict_proba(table.head(3)), rtol=1e-3, atol=1e-5)


@pytest.mark.full
def test_an_mlflow_model_of_torch_is_an_exported_program(logged, numbers, tmp_path):
    import torch

    predictor, report = from_mlflow(logged, "torch", tmp_path)
    assert (report["kind"], predictor.package.manifest.max_batch) == ("mlflow torch-export", 64)
    rows = np.random.default_rng(2).random((3, 4), np.float32)
    (name,) = (tensor.name for tensor in predictor.signature.inputs)
    answers = ask(predictor, *({"tensors": {name: row}} for row in rows.tolist()))
    with torch.inference_mode():
        wanted = numbers(torch.from_numpy(rows)).numpy()
    found = [value for answer in answers for value in answer["tensors"].values()]
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)


def test_an_mlflow_model_of_torch_that_is_a_pickle_is_refused_with_the_safe_way(logged, tmp_path):
    with pytest.raises(BadPackage, match="logged as a pickle") as refused:
        from_mlflow(logged, "torch-pickle", tmp_path)
    assert "serialization_format='pt2', input_example=" in refused.value.hint


@pytest.mark.full
def test_an_mlflow_model_of_transformers(logged, words, tmp_path):
    predictor, report = from_mlflow(logged, "transformers", tmp_path)
    assert report["kind"] == "mlflow transformers"
    texts = ["the road is broken", "a tree fell on the lamp"]
    for answer, text in zip(ask(predictor, *({"text": t} for t in texts)), texts, strict=True):
        wanted = {each["label"]: each["score"] for each in words(text, top_k=None)}
        assert answer["probabilities"] == pytest.approx(wanted, abs=1e-5)


def test_an_mlflow_model_that_is_a_pickle_is_refused(logged, tmp_path):
    with pytest.raises(BadPackage, match="pickle") as refused:
        from_mlflow(logged, "pickle", tmp_path)
    assert "skops" in refused.value.hint


@pytest.fixture(scope="module")
def wrapping(logged, tmp_path_factory):
    """What MLflow writes when it is told a loader and a file, and no flavor: loader to its folder."""
    import mlflow

    client, infos = logged
    folder = tmp_path_factory.mktemp("wrapping")
    parts = {
        "onnx": "model.onnx",
        "sklearn": "model.skops",
        "torch": "data",
        "transformers": "model",
    }
    found = {}
    for name, part in parts.items():
        loader = f"mlflow.{'pytorch' if name == 'torch' else name}"
        weights = fetch(infos[name].model_uri, folder / f"{name}-x", client, IntakeSettings())[0]
        if name == "transformers":  # as save_pretrained of both writes it: one folder
            for path in (weights / "components" / "tokenizer").iterdir():
                shutil.copy(path, weights / part)
        mlflow.pyfunc.save_model(
            str(folder / name), loader_module=loader, data_path=str(weights / part),
            pip_requirements=["mlflow"],
        )  # fmt: skip
        told = yaml.safe_load((folder / name / "MLmodel").read_text())
        assert list(told["flavors"]) == ["python_function"]
        found[loader] = folder / name
    return found


@pytest.mark.parametrize("loader", ["mlflow.onnx", "mlflow.sklearn"] + [
    "mlflow.pytorch", "mlflow.transformers"] * FULL)  # fmt: skip
def test_a_pyfunc_that_only_wraps_weights_is_read_and_never_loaded(wrapping, loader, tmp_path):
    card = {"task": "text-classification"} if loader == "mlflow.transformers" else {}
    predictor, report = take(wrapping[loader], tmp_path, **card)
    assert report["kind"].startswith("mlflow")
    predictor.warm_up()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"code": "code"}, "carries code"),
        ({"loader_module": "mlflow.pyfunc.model"}, "runs code that came with it"),
        ({"loader_module": "mlflow.onnx.loader"}, "runs code that came with it"),
        ({"loader_module": "evil"}, "runs code that came with it"),
        ({"python_model": "python_model.pkl"}, "more than its weights: python_model"),
        ({"model_code_path": "x.py"}, "more than its weights: model_code_path"),
        ({"pickle_module_name": "evil"}, "more than its weights: a pickle module"),
        ({"env_vars": ["TOKEN"]}, "more than its weights: environment variables"),
        ({"data": "../model.onnx"}, "not a path inside"),
        ({"data": "data/MLmodel.pkl"}, "not beside it"),
        ({"loader_module": "mlflow.sklearn"}, "as a pickle"),
        ({"loader_module": "mlflow.pytorch"}, "as a pickle"),
        ({"loader_module": "mlflow.transformers"}, "not a folder that save_pretrained wrote"),
    ],
)
def test_a_pyfunc_that_asks_for_more_is_refused(wrapping, changes, says, tmp_path):
    folder = shutil.copytree(wrapping["mlflow.onnx"], tmp_path / "wrapping")
    (folder / "code").mkdir()
    told = yaml.safe_load((folder / "MLmodel").read_text())
    told |= {"env_vars": changes.get("env_vars")}
    told["flavors"]["python_function"] |= {k: v for k, v in changes.items() if k != "env_vars"}
    (folder / "MLmodel").write_text(yaml.safe_dump(told))
    with pytest.raises(BadPackage, match=says):
        mlflow_folder.find_model(folder)


def test_an_mlflow_pyfunc_that_carries_code_is_refused(logged, tmp_path):
    with pytest.raises(BadPackage, match="runs code that came with it"):
        from_mlflow(logged, "code", tmp_path)


def test_an_address_that_mlflow_does_not_know(logged, tmp_path):
    for wrong in ["runs:/0123456789abcdef/model", "models:/no-such/3", "models:/no-such@champion"]:
        with pytest.raises(VersionNotFound, match="MLflow has nothing"):
            fetch(wrong, tmp_path, logged[0], IntakeSettings())


@pytest.mark.parametrize("path", ["..", "../..", "model/../../.."])
def test_an_address_stays_inside_its_run(logged, tmp_path, path):
    client, _ = logged
    (run,) = client.search_runs([client.get_experiment_by_name("sources").experiment_id])
    with pytest.raises(VersionNotFound, match="inside a run"):
        fetch(f"runs:/{run.info.run_id}/{path}", tmp_path, client, IntakeSettings())


def test_a_logged_model_is_found_by_its_own_address(logged, tmp_path):
    client, infos = logged
    found, _ = fetch(infos["onnx"].model_uri, tmp_path, client, IntakeSettings())
    assert (found / "MLmodel").is_file()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path):
    """A web server with the layout of the hubs."""
    root = tmp_path / "hub"
    root.mkdir()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(root))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    yield root, IntakeSettings(hf_url=url, torchvision_url=url, ultralytics_url=url)
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_folder_of_a_hub_is_fetched_without_its_pickles(hub, tmp_path):
    root, settings = hub
    files = {"config.json": "{}", "model.safetensors": "x", "tokenizer.json": "{}"}
    refused = {"pytorch_model.bin": "x", "modeling.py": "x", "sub/config.json": "{}"}
    folder = root / "org/tiny/resolve/main"
    for name, text in {**files, **refused}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    about = root / "api/models/org/tiny/revision"
    about.mkdir(parents=True)
    (about / "main").write_text(
        json.dumps({
            "sha": "abc", "cardData": {"license": "mit"},
            "siblings": [{"rfilename": name} for name in {**files, **refused}],
        })
    )  # fmt: skip
    found, card = fetch("hf:org/tiny", tmp_path / "w", None, settings)
    assert {path.name for path in found.iterdir()} == set(files)
    assert card == {"licence": "mit", "lineage": {"source": "hf:org/tiny@abc"}}
    with pytest.raises(InvalidInput):
        fetch("hf:../../etc/passwd", tmp_path / "w2", None, settings)
    with pytest.raises(Unavailable, match="gave no model"):
        fetch("hf:org/absent", tmp_path / "w3", None, settings)


@pytest.mark.full
def test_weights_of_torchvision_and_ultralytics_are_fetched_by_name(hub, tmp_path):
    from torchvision.models import get_model_weights

    root, settings = hub
    name = get_model_weights("squeezenet1_1").DEFAULT.url.rpartition("/")[2]
    (root / "models").mkdir()
    (root / "models" / name).write_bytes(b"weights")
    found, card = fetch("torchvision:squeezenet1_1", tmp_path / "a", None, settings)
    assert (found.name, card) == (name, {"architecture": "torchvision:squeezenet1_1"})
    (root / "yolo11n.pt").write_bytes(b"weights")
    found, _ = fetch("ultralytics:yolo11n.pt", tmp_path / "b", None, settings)
    assert found.read_bytes() == b"weights"
    for wrong in ["ultralytics:../x.pt", "torchvision:os.system", "torchvision:no_such_net"]:
        with pytest.raises(InvalidInput):
            fetch(wrong, tmp_path / "c", None, settings)
    away = IntakeSettings(ultralytics_url="http://127.0.0.1:9")
    with pytest.raises(Unavailable) as refused:
        fetch("ultralytics:yolo11n.pt", tmp_path / "d", None, away)
    assert "Without internet" in refused.value.hint
