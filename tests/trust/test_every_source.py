"""A model of each source goes in by the client, is deployed, and answers a department by the task API.

The hubs are a local server of the hubs' layout. What the HTTP door answers is what the admitted package
answers in this process; that the package agrees with its source is `test_sources.py`'s.
"""

import functools
import http.server
import json
import shutil
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
from support import RemoteModels, running_platform
from support_models import BUILDERS

from citybrain.models.predictor import Predictor
from citybrain.registry.sandbox import Isolation, isolation

pytestmark = [pytest.mark.platform, pytest.mark.full]
CARD = {"owner": "platform", "licence": "Apache-2.0", "domain": "traffic"}
PICTURES = {"task": "image-classification", "options": {"image_size": 64}}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """The folder of a local server, and its address."""
    root = tmp_path_factory.mktemp("hub")
    handler = functools.partial(Quiet, directory=str(root))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield root, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def city(tmp_path_factory, hub):
    """A client of a platform that fetches from the local hub."""
    remote = RemoteModels()
    settings = {
        **{
            f"CITYBRAIN_INTAKE__{name}_URL": hub[1] for name in ("HF", "TORCHVISION", "ULTRALYTICS")
        },
        "CITYBRAIN_REMOTE__HOSTS": remote.hosts,
    }
    with (
        running_platform(tmp_path_factory.mktemp("home"), **settings) as platform,
        platform.client() as found,
    ):
        found.home, found.remote = platform.home, remote
        yield found
    remote.stop()


def iris():
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    table, labels = load_iris(return_X_y=True, as_frame=True)
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(table, labels), table


def skops(city, work, hub):
    import skops.io

    skops.io.dump(iris()[0], work / "iris.skops")
    return work / "iris.skops", {}


def skl2onnx(city, work, hub):
    from skl2onnx import to_onnx

    model, table = iris()
    graph = to_onnx(model, table.head(1).to_numpy(np.float32), options={"zipmap": False})
    (work / "iris.onnx").write_bytes(graph.SerializeToString())
    return work / "iris.onnx", {}


def pt2(city, work, hub):
    import torch

    torch.manual_seed(3)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=8), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(8 * 8 * 8, 4),
    ).eval()  # fmt: skip
    rows = torch.export.Dim("rows", min=1, max=64)
    shapes = ({0: rows},)
    program = torch.export.export(layers, (torch.zeros(2, 3, 64, 64),), dynamic_shapes=shapes)
    torch.export.save(program, work / "net.pt2")
    return work / "net.pt2", {**PICTURES, "options": {"image_size": 64, "labels": list("abcd")}}


def mobilenet(work):
    import torch
    import torchvision

    torch.manual_seed(4)
    name = torchvision.models.get_model_weights("mobilenet_v3_small").DEFAULT.url
    path = work / name.rpartition("/")[2]
    torch.save(torchvision.models.mobilenet_v3_small(weights=None).state_dict(), path)
    return path


def state_dict(city, work, hub):
    found = mobilenet(work)
    return found, {**PICTURES, "architecture": "torchvision:mobilenet_v3_small"}


def torchvision(city, work, hub):
    (hub[0] / "models").mkdir()
    mobilenet(hub[0] / "models")
    return "torchvision:mobilenet_v3_small", PICTURES


def safetensors(city, work, hub):
    import torchvision as library
    from safetensors.torch import save_file

    net = library.models.squeezenet1_1(weights=None, num_classes=5)
    save_file(net.state_dict(), work / "w.safetensors")
    return work / "w.safetensors", {**PICTURES, "architecture": "torchvision:squeezenet1_1"}


def yolo(folder, name):
    ultralytics = pytest.importorskip("ultralytics")
    ultralytics.YOLO("yolo11n.yaml", verbose=False).save(str(folder / name))


def checkpoint(city, work, hub):
    yolo(work, "best.pt")
    return work / "best.pt", {"options": {"image_size": 64}}


def ultralytics(city, work, hub):
    yolo(hub[0], "yolo11n.pt")
    return "ultralytics:yolo11n.pt", {"options": {"image_size": 64}}


def family(name):
    said = {"patchtst": {"step_seconds": 300}, "whisper": {"language": "en", "max_new_tokens": 12}}

    def folder(city, work, hub):
        (work / name).mkdir()
        BUILDERS[name](work / name)
        return work / name, {"options": said.get(name, {})}

    return folder


def archive(city, work, hub):
    folder, _ = family("bert")(city, work, hub)
    return Path(shutil.make_archive(str(work / "bert"), "zip", folder)), {}


def hugging_face(city, work, hub):
    folder = hub[0] / "org/tiny/resolve/main"
    folder.mkdir(parents=True)
    BUILDERS["bert"](folder)
    about = hub[0] / "api/models/org/tiny/revision"
    about.mkdir(parents=True)
    files = [{"rfilename": path.name} for path in folder.iterdir()]
    (about / "main").write_text(json.dumps({"sha": "abc", "siblings": files}))
    return "hf:org/tiny", {}


def package(city, work, hub):
    """Another source's package, as the platform keeps it, handed in again as an archive."""
    page = city.algorithm("from-skops")
    folder = shutil.copytree(city.home.packages / page.versions[0].digest, work / "package")
    manifest = folder / "algorithm.yaml"
    manifest.write_text(manifest.read_text().replace("from-skops", "from-package"))
    return Path(shutil.make_archive(str(work / "package"), "gztar", folder)), None


def logged(flavor):
    """A run in the platform's own MLflow, as a developer on its machine logs it."""

    def address(city, work, hub):
        import mlflow

        model, table = iris()
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(city.status().mlflow)
        told = {"pip_requirements": ["mlflow"]}
        name = f"sources-{flavor}"  # else its artifacts lie where this process stands
        mlflow.create_experiment(name, artifact_location=(city.home.work / name).as_uri())
        mlflow.set_experiment(name)
        with mlflow.start_run() as run:
            if flavor == "sklearn":
                mlflow.sklearn.log_model(model, name="m", serialization_format="skops", **told)
            elif flavor == "onnx":
                import skl2onnx as library

                sample = table.head(1).to_numpy(np.float32)
                graph = library.to_onnx(model, sample, options={"zipmap": False})
                mlflow.onnx.log_model(graph, name="m", **told)
            elif flavor == "pytorch":
                import torch

                net = torch.nn.Sequential(torch.nn.Linear(4, 3)).eval()
                example = np.zeros((2, 4), np.float32)
                mlflow.pytorch.log_model(net, name="m", input_example=example, **told)
            else:
                import transformers

                (work / "bert").mkdir()
                BUILDERS["bert"](work / "bert")
                words = transformers.pipeline("text-classification", model=str(work / "bert"))
                mlflow.transformers.log_model(words, name="m", **told)
        mlflow.set_tracking_uri(before)
        return f"runs:/{run.info.run_id}/m", {}

    return address


def triton(city, work, hub):
    return city.remote.address("sum"), {}


def triton_grpc(city, work, hub):
    return city.remote.address("sum", "triton+grpc"), {}


SOURCES = {
    "skops": skops, "skl2onnx": skl2onnx, "pt2": pt2, "state-dict": state_dict,
    "safetensors": safetensors, "yolo": checkpoint, "zip": archive, "package": package,
    **{name: family(name) for name in BUILDERS},
    **{f"mlflow-{name}": logged(name) for name in ("sklearn", "onnx", "pytorch", "transformers")},
    "hf": hugging_face, "torchvision": torchvision, "ultralytics": ultralytics,
    "triton": triton, "triton-grpc": triton_grpc,
}  # fmt: skip
PICKLES = {"state-dict", "yolo", "torchvision", "ultralytics"}


@pytest.mark.parametrize("source", SOURCES)
def test_it_goes_in_and_answers(source, city, hub, tmp_path, parity):
    if source in PICKLES and isolation()[0] is Isolation.none:
        pytest.skip(f"no namespaces here: {isolation()[1]}")
    taken, said = SOURCES[source](city, tmp_path, hub)
    name = f"from-{source}"
    version = city.register(taken, name, card={} if said is None else CARD | said)
    report = city.admission(name, version.version)
    if report.get("converter"):
        assert all(gap["relative"] <= 1e-3 for gap in report["parity"].values())
        assert (report["calls"] >= 1, len(report["speed"])) == (True, 2)
        parity(source, report)
    found = city.deploy(name, "challenger", shared=not source.startswith("triton"), wait=240)
    assert found.state == "running", found
    body = city.algorithm(name).example
    answer = city.call("POST", f"/v1/algorithms/{name}@challenger/predict", json=body)
    assert (answer["algorithm"], int(answer["version"])) == (name, version.version)
    assert len(answer["results"]) == len(body["inputs"])
    if not source.startswith("triton"):  # what lies elsewhere is not opened in this process
        check_answers(Predictor.open(city.home.packages / version.digest), body, answer)
    city.undeploy(name, "challenger")


def check_answers(predictor, body, answer):
    if (
        predictor.package.manifest.task == "speech-synthesis"
    ):  # it speaks a little differently each time
        assert all(result["audio"] for result in answer["results"])
        return
    items = msgspec.convert(body["inputs"], list[predictor.task.Input])
    wanted = msgspec.json.decode(msgspec.json.encode(predictor.predict(items)))
    assert _rounded(answer["results"], wanted) == wanted


def _rounded(found, wanted):
    """The answers, with numbers that agree within 1e-4 taken for the same."""
    if isinstance(wanted, dict):
        return {
            key: _rounded(found[key], wanted[key]) if key in wanted else found[key] for key in found
        }
    if isinstance(wanted, list):
        return [_rounded(*pair) for pair in zip(found, wanted, strict=True)]
    if isinstance(wanted, float):
        return wanted if abs(found - wanted) <= 1e-4 * max(1, abs(wanted)) else found
    return found
