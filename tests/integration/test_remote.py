"""Models on another server: read, tried, called, and believed in nothing."""

import http.server
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import httpx
import numpy as np
import pytest
import remote_models as served
import yaml
from support import RemoteModels, command, wait_for
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from citybrain.core.errors import (
    BadPackage,
    CityBrainError,
    HostNotListed,
    InvalidInput,
    ModelFailed,
    RemoteDown,
)
from citybrain.core.settings import IntakeSettings
from citybrain.core.tensors import bytes_array
from citybrain.models.package import MANIFEST, Package
from citybrain.models.predictor import Predictor
from citybrain.models.remote import parse_address
from citybrain.models.remote_server import RemoteServer
from citybrain.registry.admission.admit import admit
from citybrain.registry.sandbox import Limits
from citybrain.registry.sources import fetch

CARD = {"name": "far-away", "owner": "traffic", "licence": "Apache-2.0", "domain": "traffic"}
SCHEMES = ["triton", "triton+grpc"]
ROWS = {
    "sum": {"a": np.arange(15, dtype=np.float32).reshape(5, 3), "b": np.ones((5, 3), np.float32)},
    "count": {"n": np.array([[-(2**62), 7], [2**53 + 1, 0]])},
    "shout": {"text": bytes_array(["拥堵 b".encode(), b"", b"c\0d"])},
}
SECONDS = 1.0


@pytest.fixture(autouse=True)
def listed(remote_models, monkeypatch):
    monkeypatch.setenv("CITYBRAIN_REMOTE__HOSTS", remote_models.hosts)
    monkeypatch.setenv("CITYBRAIN_REMOTE__SECONDS", str(SECONDS))
    yield
    remote_models.be()


@pytest.fixture
def connect():
    """A server to ask, and what it tells of a model; hung up at the end."""
    opened = []

    def make(address):
        opened.append(RemoteServer(parse_address(address)))
        return opened[-1], opened[-1].read()

    yield make
    for server in opened:
        server.close()


def take(address, tmp_path, **card):
    source, told = fetch(address, tmp_path / "fetched", None, IntakeSettings())
    found = admit(source, tmp_path / "admitted", told | CARD | card, Limits(seconds=300))
    return found.folder, found.report


def write_package(folder, address, model="sum", **manifest):
    """A package as a developer may write it by hand."""
    inputs, outputs, _ = served.MODELS[model]
    sides = {
        side: [{"name": t["name"], "dtype": t["datatype"], "shape": t["shape"]} for t in tensors]
        for side, tensors in (("inputs", inputs), ("outputs", outputs))
    }
    folder.mkdir()
    (folder / "remote.json").write_text(json.dumps({"address": address, **sides}))
    plain = {
        "title": {"zh": "远", "en": "Far"}, "task": "tensor", "runtime": "triton",
        "weights": "remote.json", "options": sides,
    }  # fmt: skip
    (folder / MANIFEST).write_text(yaml.safe_dump(CARD | plain | manifest))
    return folder


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        assert found[name].tolist() == array.tolist()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", sorted(ROWS))
def test_answers_are_those_of_the_model_run_here(name, scheme, remote_models, connect):
    server, model = connect(remote_models.address(name, scheme))
    same(server.infer(model, ROWS[name]), served.answer(name, ROWS[name]))
    same(server.infer(model, ROWS[name]), served.answer(name, ROWS[name]))  # the connection lives


@pytest.mark.parametrize("scheme", SCHEMES)
def test_threads_that_call_at_once_get_their_own_answers(scheme, remote_models, connect):
    server, model = connect(remote_models.address("count", scheme))

    def call(number):
        inputs = {"n": np.full((number % 5 + 1, 2), number)}
        same(server.infer(model, inputs), served.answer("count", inputs))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(call, range(80)))


@pytest.mark.parametrize("name", ["sum", "count"])
def test_a_server_without_the_binary_extension_gets_json(name, remote_models, connect):
    remote_models.be(plain="")
    server, model = connect(remote_models.address(name))
    same(server.infer(model, ROWS[name]), served.answer(name, ROWS[name]))


def test_a_server_is_reached_by_its_ipv6_address(monkeypatch, connect):
    try:
        here = RemoteModels("::1")
    except AssertionError:
        pytest.skip("this machine has no ::1")
    monkeypatch.setenv("CITYBRAIN_REMOTE__HOSTS", here.hosts)
    try:
        for scheme in SCHEMES:
            spelled = here.address("sum@1", scheme).replace("[::1]", "[0:0::1]")
            server, model = connect(spelled)
            same(server.infer(model, ROWS["sum"]), served.answer("sum", ROWS["sum"]))
    finally:
        here.stop()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_address_becomes_a_package_that_was_tried_outside_the_sandbox(
    scheme, remote_models, tmp_path
):
    address = remote_models.address("count@1", scheme)
    folder, report = take(address, tmp_path)
    manifest = Package.open(folder).manifest
    assert (manifest.task, manifest.runtime, manifest.max_batch) == ("tensor", "triton", 64)
    assert manifest.lineage.source == address
    assert report["kind"] == "remote"
    assert "outside the sandbox" in report["examined"]["tried"]
    assert report["examined"]["milliseconds"] > 0
    described = report["examined"]["describe"]
    assert described["address"] == address
    assert described["server"].isprintable()
    predictor = Predictor.open(folder)
    (answer,) = predictor.infer([ROWS["count"]])
    same(answer, served.answer("count", ROWS["count"]))


def test_a_task_of_the_platform_may_stand_before_a_remote_model(remote_models, tmp_path):
    options = {"features": ["a", "b"], "labels": ["no", "yes"]}
    folder, _ = take(
        remote_models.address("classes"), tmp_path, task="tabular-classification", options=options
    )
    predictor = Predictor.open(folder)
    item = predictor.task.Input(features={"a": 1.0, "b": 2.0})
    assert predictor.predict([item])[0].label == "yes"


def test_a_model_of_one_row_is_called_row_by_row(remote_models, tmp_path):
    folder, _ = take(remote_models.address("single"), tmp_path)
    assert Package.open(folder).manifest.max_batch == 1
    (answer,) = Predictor.open(folder).infer([ROWS["sum"]])
    same(answer, served.answer("sum", ROWS["sum"]))


def test_what_cannot_be_batched_is_refused_with_the_reason(remote_models, tmp_path):
    with pytest.raises(BadPackage, match="not a batch axis"):
        take(remote_models.address("no-batch"), tmp_path / "a")
    with pytest.raises(BadPackage, match="two rows") as refused:
        take(remote_models.address("picky"), tmp_path / "b")
    assert "one row only" in str(refused.value)
    assert "second line" not in str(refused.value)
    folder = write_package(tmp_path / "c", remote_models.address("single"), "single")
    with pytest.raises(BadPackage, match="takes 1 a call"):
        admit(folder, tmp_path / "d", {}, Limits())


def test_a_task_that_the_model_does_not_fit_is_refused(remote_models, tmp_path):
    options = {"features": ["a", "b", "c"], "labels": ["no", "yes"]}
    with pytest.raises(BadPackage, match="shape"):
        take(
            remote_models.address("classes"), tmp_path, task="tabular-classification",
            options=options,
        )  # fmt: skip


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_model_or_server_that_is_not_there_is_named(scheme, remote_models, tmp_path, monkeypatch):
    with pytest.raises(BadPackage, match="no-such"):
        take(remote_models.address("no-such", scheme), tmp_path / "a")
    with pytest.raises(BadPackage, match="sum@2"):
        take(remote_models.address("sum@2", scheme), tmp_path / "b")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("CITYBRAIN_REMOTE__HOSTS", place)
        with pytest.raises(RemoteDown, match=place):
            take(f"{scheme}://{place}/sum", tmp_path / "c")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_calls_fail_while_the_server_is_down_and_go_on_when_it_is_back(
    scheme, connect, monkeypatch
):
    here = RemoteModels()
    monkeypatch.setenv("CITYBRAIN_REMOTE__HOSTS", here.hosts)
    try:
        server, model = connect(here.address("sum", scheme))
        same(server.infer(model, ROWS["sum"]), served.answer("sum", ROWS["sum"]))
        here.stop()
        for _ in range(2):
            with pytest.raises(RemoteDown) as down:
                server.infer(model, ROWS["sum"])
            assert here.host not in str(down.value)  # callers need not learn where it lies
        here.start()
        same(server.infer(model, ROWS["sum"]), served.answer("sum", ROWS["sum"]))
    finally:
        here.stop()


@pytest.mark.parametrize(
    ("scheme", "fault"), [("triton", "slow"), ("triton", "dripping"), ("triton+grpc", "slow")]
)
def test_a_slow_answer_is_given_up_in_time_and_the_next_call_is_answered(
    scheme, fault, remote_models, connect
):
    server, model = connect(remote_models.address("sum", scheme))
    remote_models.be(sum=fault)
    began = time.monotonic()
    with pytest.raises(RemoteDown, match="1 s"):
        server.infer(model, ROWS["sum"])
    assert SECONDS * 0.9 < time.monotonic() - began < SECONDS + 1.5
    remote_models.be()
    same(server.infer(model, ROWS["sum"]), served.answer("sum", ROWS["sum"]))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "fault", ["other-name", "other-dtype", "other-shape", "fewer-rows", "huge"]
)
def test_an_answer_that_is_not_what_was_registered_is_refused(
    scheme, fault, remote_models, connect
):
    server, model = connect(remote_models.address("sum", scheme))
    remote_models.be(sum=fault)
    with pytest.raises(ModelFailed):
        server.infer(model, ROWS["sum"])
    remote_models.be()
    same(server.infer(model, ROWS["sum"]), served.answer("sum", ROWS["sum"]))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_more_of_an_answer_is_read_than_may_be(scheme, remote_models, connect, monkeypatch):
    monkeypatch.setenv("CITYBRAIN_REMOTE__MAX_ANSWER", "100000")
    server, model = connect(remote_models.address("sum", scheme))
    remote_models.be(sum="huge")
    with pytest.raises(ModelFailed, match="larger than"):
        server.infer(model, ROWS["sum"])
    remote_models.be()
    same(server.infer(model, ROWS["sum"]), served.answer("sum", ROWS["sum"]))


def test_a_compressed_answer_is_not_unpacked(remote_models, connect):
    server, model = connect(remote_models.address("sum"))
    remote_models.be(sum="zipped")
    with pytest.raises(ModelFailed, match="compressed"):
        server.infer(model, ROWS["sum"])


def test_a_redirect_is_not_followed(remote_models, connect, tmp_path, monkeypatch):
    server, model = connect(remote_models.address("sum"))
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        place = f"127.0.0.1:{elsewhere.getsockname()[1]}"
        remote_models.be(sum="moved", to=f"http://{place}/v2/models/sum/infer")
        with pytest.raises(ModelFailed, match="307"):
            server.infer(model, ROWS["sum"])
        with moving(place) as door:
            monkeypatch.setenv("CITYBRAIN_REMOTE__HOSTS", door)
            with pytest.raises(BadPackage, match="live"):
                take(f"triton://{door}/sum", tmp_path)
        elsewhere.settimeout(0.3)
        with pytest.raises(TimeoutError):
            elsewhere.accept()


class moving:
    """A server that sends everybody to another place, from its first word on."""

    def __init__(self, place):
        class Door(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(302)
                self.send_header("location", f"http://{place}{self.path}")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Door)

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"127.0.0.1:{self._server.server_port}"

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_model_that_has_changed_is_not_loaded(scheme, remote_models, tmp_path):
    folder = write_package(tmp_path / "p", remote_models.address("sum", scheme))
    Predictor.open(folder).warm_up()
    remote_models.be(sum="wider")
    with pytest.raises(BadPackage, match=r"b was FP32\[-1, 3\], is FP32\[-1, 4\]"):
        Predictor.open(folder)


def test_only_listed_servers_are_asked_by_an_address_or_by_a_package(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as inside:
        inside.settimeout(0.3)
        place = f"127.0.0.1:{inside.getsockname()[1]}"
        with pytest.raises(HostNotListed, match=place) as refused:
            take(f"triton://{place}/sum", tmp_path / "a")
        assert "CITYBRAIN_REMOTE__HOSTS" in refused.value.hint
        folder = write_package(tmp_path / "p", f"triton://{place}/sum")
        with pytest.raises(HostNotListed, match=place):
            admit(folder, tmp_path / "b", {}, Limits())
        alone = tmp_path / "alone" / "remote.json"
        alone.parent.mkdir()
        alone.write_bytes((folder / "remote.json").read_bytes())
        with pytest.raises(HostNotListed, match=place):
            admit(alone, tmp_path / "c", CARD, Limits())
        monkeypatch.delenv("CITYBRAIN_REMOTE__HOSTS")
        with pytest.raises(HostNotListed):
            Predictor.open(folder)
        with pytest.raises(TimeoutError):
            inside.accept()


def test_a_package_whose_host_was_taken_off_the_list_is_not_loaded(
    remote_models, tmp_path, monkeypatch
):
    folder = write_package(tmp_path / "p", remote_models.address("sum"))
    Predictor.open(folder).warm_up()
    monkeypatch.setenv("CITYBRAIN_REMOTE__HOSTS", "gpu-1:8000")
    with pytest.raises(HostNotListed):
        Predictor.open(folder)


@pytest.mark.parametrize("spelled", ["user@{}", "{}#", "127.1:{port}", "0x7f.1:{port}"])
def test_no_other_spelling_reaches_a_listed_server(spelled, remote_models, tmp_path):
    place = spelled.format(remote_models.places[0], port=remote_models.ports[0])
    with pytest.raises(InvalidInput, match="no address"):
        take(f"triton://{place}/sum", tmp_path)


@pytest.mark.platform
class TestOnAPlatform:
    """From an address to answers under a key, and what callers see when the server is away."""

    @pytest.fixture(scope="class")
    def deployed(self, platform, remote_models):
        said = ["--owner", "platform", "--licence", "MIT", "--domain", "traffic"]
        for name, scheme in (("far-sum", "triton"), ("far-sum-grpc", "triton+grpc")):
            address = remote_models.address("sum", scheme)
            done = command(platform.home.root, "register", address, "--name", name, *said)
            assert address in done.stdout.replace("\n", "")
            assert "One call takes" in done.stdout
            command(platform.home.root, "deploy", f"{name}@1")
        yield platform
        for name in ("far-sum", "far-sum-grpc"):
            with platform.client() as city:
                city.undeploy(name, "1")

    def body(self, tmp_path):
        path = tmp_path / "body.json"
        path.write_text('{"inputs": [{"tensors": {"a": [1, 2, 3], "b": [0.5, 0, -1]}}]}')
        return str(path)

    @pytest.mark.parametrize("name", ["far-sum@1", "far-sum-grpc@1"])
    def test_it_answers_on_the_command_line(self, name, deployed, tmp_path):
        done = wait_for(
            lambda: command(deployed.home.root, "predict", name, self.body(tmp_path)), 30
        )
        assert json.loads(done.stdout)["results"] == [{"tensors": {"y": [2.5, 4.0, 5.0]}}]

    def test_the_card_tells_where_it_lies_and_what_the_digest_covers(self, deployed, remote_models):
        with deployed.client() as city:
            card = city.card("far-sum")
            assert card.remote == remote_models.address("sum")
            report = city.admission("far-sum", 1)
            assert "outside the sandbox" in report["examined"]["tried"]
            assert city.card("crowd-level").remote == ""
        told = command(deployed.home.root, "card", "far-sum", "--lang", "en").stdout
        assert remote_models.address("sum") in told
        assert "not the weights" in told

    def test_a_silent_server_is_shown_refused_at_once_and_taken_back(self, deployed, remote_models):
        item = [{"tensors": {"a": [1, 2, 3], "b": [0, 0, 0]}}]
        names = ("far-sum", "far-sum-grpc")
        ports = dict(zip(names, remote_models.ports, strict=True))
        with deployed.client() as city:

            def seen():
                return {d.algorithm: d for d in city.deployments() if d.algorithm in names}

            def is_ready(name):
                headers = {"authorization": f"Bearer {deployed.key}"}
                url = f"{deployed.url}/v2/models/{name}/versions/1/ready"
                with grpc.insecure_channel(deployed.grpc) as channel:
                    request = pb.ModelReadyRequest(name=name, version="1")
                    found = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelReady(
                        request, metadata=tuple(headers.items()), timeout=10
                    )
                status = httpx.get(url, headers=headers, trust_env=False).status_code
                assert (status == 200) == found.ready, "the doors disagree"
                return found.ready

            for name in names:
                wait_for(lambda name=name: city.predict(f"{name}@1", item), 30)
            assert all(map(is_ready, names))
            before = {process.pid for process in deployed.replicas()}
            remote_models.freeze()  # it takes connections and says nothing: the slowest way to be down
            try:
                wait_for(lambda: all(d.message for d in seen().values()), 30)
                assert {d.state for d in seen().values()} == {"running"}
                wait_for(lambda: not any(map(is_ready, names)), 10)
                index = city.call("POST", "/v2/repository/index")
                states = {m["name"]: m["state"] for m in index}
                assert {states[name] for name in names} == {"UNAVAILABLE"}
                assert states["crowd-level"] == "READY"
                for name in names:
                    for _ in range(5):
                        began = time.monotonic()
                        with pytest.raises(RemoteDown) as down:
                            city.predict(f"{name}@1", item)
                        assert time.monotonic() - began < 3, "a caller waited for a silent server"
                        assert str(ports[name]) not in str(down.value)
            finally:
                remote_models.thaw()
            for name in names:
                assert wait_for(lambda name=name: city.predict(f"{name}@1", item), 15)["results"]
            wait_for(lambda: all(map(is_ready, names)), 20)
            assert {d.message for d in seen().values()} == {""}
            assert before <= {process.pid for process in deployed.replicas()}

    def test_a_call_that_meets_the_silence_first_spares_the_next_ones(
        self, deployed, remote_models
    ):
        item = [{"tensors": {"a": [1, 2, 3], "b": [0, 0, 0]}}]
        with deployed.client() as city:
            wait_for(lambda: city.predict("far-sum@1", item), 30)
            remote_models.stop()
            try:
                for _ in range(3):
                    with pytest.raises(RemoteDown):
                        city.predict("far-sum@1", item)
            finally:
                remote_models.start()
            assert wait_for(lambda: city.predict("far-sum@1", item), 15)["results"]

    @pytest.mark.full
    def test_what_starts_while_the_server_is_silent_runs_when_it_is_back(
        self, deployed, remote_models
    ):
        with deployed.client() as city:
            city.undeploy("far-sum", "1")
            # What was taken down lingers some seconds, and would be taken up again as it is.
            wait_for(
                lambda: not any(":far-sum.1" in p.cmdline()[0] for p in deployed.replicas()), 60
            )
            remote_models.stop()
            try:
                found = city.deploy("far-sum", "1")
                assert found.state == "failed"
                assert "does not answer" in found.message
            finally:
                remote_models.start()

            def runs():
                return [d.state for d in city.deployments() if d.algorithm == "far-sum"] == [
                    "running"
                ]

            wait_for(runs, 90)

    def test_a_liar_harms_one_call(self, deployed, remote_models):
        item = [{"tensors": {"a": [1, 2, 3], "b": [0, 0, 0]}}]
        with deployed.client() as city:
            wait_for(lambda: city.predict("far-sum@1", item), 30)
            remote_models.be(sum="other-shape")
            with pytest.raises(ModelFailed, match="shape"):
                city.predict("far-sum@1", item)
            remote_models.be()
            assert city.predict("far-sum@1", item)["results"]

    def test_an_unlisted_server_is_refused_by_its_code(self, deployed, tmp_path):
        said = [
            "--name",
            "far-no",
            "--owner",
            "platform",
            "--licence",
            "MIT",
            "--domain",
            "traffic",
        ]
        done = command(
            deployed.home.root, "register", "triton://127.0.0.1:1/sum", *said, check=False
        )
        assert done.returncode == 1
        assert "CITYBRAIN_REMOTE__HOSTS" in done.stderr + done.stdout
        with deployed.client() as city:
            card = {key: value for key, value in CARD.items() if key != "name"}
            with pytest.raises(HostNotListed):
                city.register("triton://127.0.0.1:1/sum", "far-no", card=card)
            with pytest.raises(HostNotListed):
                folder = write_package(tmp_path / "p", "triton://127.0.0.1:1/sum", name="far-no")
                city.register(folder, "far-no")
            with pytest.raises(CityBrainError):
                city.algorithm("far-no")
