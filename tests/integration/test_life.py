"""The life of an algorithm on a real platform: from a folder to a line in the usage table."""

import json
import stat
from datetime import timedelta

import httpx
import numpy as np
import pytest
import yaml
from support import command, register_doubler, wait_for

from citybrain.core.errors import (
    AlgorithmNotFound,
    BadKey,
    BadPackage,
    DigestMismatch,
    GateNotPassed,
    InvalidInput,
    MissingKey,
    NotAllowed,
    NotGranted,
    NotReady,
    RowNotFound,
    SignatureWrong,
)
from citybrain.core.schemas import NewGrant, NewKey
from citybrain.models.package import MANIFEST
from citybrain.storage.moments import now

pytestmark = pytest.mark.platform
ROW = {"features": {}}


@pytest.fixture(scope="module")
def example(platform):
    with platform.client() as city:
        return city.algorithm("crowd-level").example["inputs"]


def test_a_department_calls_with_its_key_under_its_grant_and_is_counted(platform, example):
    with platform.client() as admin:
        admin.add_department("health", "卫健委", "Health")
        key = admin.add_key(NewKey(department="health"))
        with platform.client(key.secret) as city:
            with pytest.raises(NotGranted):
                wait_for(lambda: city.predict("crowd-level", example), 3)
            admin.add_grant(NewGrant(department="health", algorithm="crowd-level"))
            answer = wait_for(lambda: city.predict("crowd-level", example), 10)
            assert answer["algorithm"] == "crowd-level"
            assert answer["results"][0]["label"] in {"comfortable", "busy", "crowded", "closed"}
            row = wait_for(lambda: city.request(answer["request_id"]), 10)
            assert (row["department"], row["state"], row["rows"]) == ("health", "SERVED", 1)
            lines = [line for line in city.usage() if line.algorithm == "crowd-level"]
            assert {line.department for line in lines} == {"health"}


def test_a_revoked_key_is_refused_within_a_second(platform, example):
    with platform.client() as admin:
        key = admin.add_key(NewKey(department="platform", role="admin"))
        with platform.client(key.secret) as city:
            wait_for(lambda: city.predict("crowd-level", example), 5)
            admin.revoke_key(key.id)
            with pytest.raises(BadKey):
                [city.predict("crowd-level", example) for _ in iter(lambda: 0, 1)]


def test_the_same_answer_comes_through_every_door(platform, example):
    import tritonclient.grpc as triton_grpc
    import tritonclient.http as triton_http

    features = np.array([list(example[0]["features"].values())] * 3, dtype=np.float32)
    with platform.client() as city:
        by_task = city.predict("crowd-level", example * 3)["results"]
    headers = {"authorization": f"Bearer {platform.key}"}
    answers = {}
    for name, module, address in (
        ("http", triton_http, platform.url.removeprefix("http://")),
        ("grpc", triton_grpc, platform.grpc),
    ):
        client = module.InferenceServerClient(address)
        assert client.is_server_live()
        assert client.is_server_ready()
        tensor = module.InferInput("features", [3, 11], "FP32")
        tensor.set_data_from_numpy(features)
        answers[name] = client.infer("crowd-level", [tensor], headers=dict(headers))
        client.close()
    expected = [row["label"].encode() for row in by_task]
    for answer in answers.values():
        assert answer.as_numpy("label").tolist() == expected
        np.testing.assert_allclose(
            answer.as_numpy("probabilities")[0],
            list(by_task[0]["probabilities"].values()), rtol=1e-4,
        )  # fmt: skip


def test_json_tensors_and_binary_tensors_agree(platform, example):
    values = list(example[0]["features"].values())
    body = {"id": "abc", "inputs": [
        {"name": "features", "datatype": "FP32", "shape": [1, 11], "data": [values]}
    ]}  # fmt: skip
    headers = {"authorization": f"Bearer {platform.key}"}
    url = f"{platform.url}/v2/models/crowd-level/infer"
    answer = httpx.post(url, json=body, headers=headers).json()
    assert answer["id"] == "abc"
    assert answer["model_version"] == "1"
    raw = np.array(values, np.float32).tobytes()
    head = json.dumps({"inputs": [
        {"name": "features", "datatype": "FP32", "shape": [1, 11],
         "parameters": {"binary_data_size": len(raw)}}
    ]}).encode()  # fmt: skip
    headers["inference-header-content-length"] = str(len(head))
    again = httpx.post(url, content=head + raw, headers=headers).json()
    assert again["outputs"] == answer["outputs"]


def test_metadata_names_the_tasks_tensors(platform):
    headers = {"authorization": f"Bearer {platform.key}"}
    found = httpx.get(f"{platform.url}/v2/models/crowd-level", headers=headers).json()
    assert found["inputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, 11]}]
    assert [output["name"] for output in found["outputs"]] == ["label", "probabilities"]
    index = httpx.post(f"{platform.url}/v2/repository/index", headers=headers).json()
    assert {"name": "crowd-level", "version": "1", "state": "READY", "reason": ""} in index


def test_a_version_registered_with_plain_mlflow_is_taken_in_and_served(platform, tmp_path):
    code = f"""
import mlflow, numpy as np, onnx
from onnx import TensorProto, helper
node = helper.make_node("Mul", ["x", "two"], ["y"])
graph = helper.make_graph([node], "double",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
    [helper.make_tensor("two", TensorProto.FLOAT, [1], [2.0])])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
mlflow.set_tracking_uri({platform.client().status().mlflow!r})
mlflow.set_experiment("plain")
with mlflow.start_run():
    mlflow.onnx.log_model(model, name="model", registered_model_name="plain-double")
"""
    import subprocess
    import sys

    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True)

    def told_what_is_missing():
        done = command(platform.home.root, "algorithms", "plain-double", check=False)
        assert done.returncode == 1
        return "set_registered_model_tag" in done.stderr and done.stderr

    asked = wait_for(told_what_is_missing, 60)
    words = {
        "citybrain.owner": "platform",
        "citybrain.licence": "MIT",
        "citybrain.domain": "traffic",
    }
    assert all(tag in asked for tag in words)
    code = f"""
from mlflow import MlflowClient
client = MlflowClient({platform.client().status().mlflow!r})
for tag, value in {words!r}.items():
    client.set_registered_model_tag("plain-double", tag, value)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True)
    with platform.client() as city:
        version = wait_for(lambda: city.version("plain-double", "challenger"), 60)
        assert version.source == "mlflow"
        assert city.deploy("plain-double", "1").state == "running"
        answer = wait_for(
            lambda: city.predict("plain-double", [{"tensors": {"x": [1.0, 2.0, 3.0]}}]), 10
        )
        assert answer["results"] == [{"tensors": {"y": [2.0, 4.0, 6.0]}}]
        with pytest.raises(GateNotPassed, match="not been evaluated"):
            city.promote("plain-double", 1)
        city.undeploy("plain-double", "1")


def test_promotion_is_refused_with_the_failing_numbers(platform, tmp_path):
    """A version that knows nothing: the same package with its labels turned round."""
    folder = tmp_path / "crowd-level"
    source = platform.home.work / "crowd-level-package"
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    manifest = yaml.safe_load((folder / MANIFEST).read_text())
    manifest["options"]["labels"].reverse()
    (folder / MANIFEST).write_text(yaml.safe_dump(manifest))
    with platform.client() as city:
        version = city.register(folder, "crowd-level")
        report = city.evaluate("scenic-crowd", "crowd-level", str(version.version))
        assert not report.passed
        assert report.report["champion"]["macro-f1"] > 0.7
        with pytest.raises(GateNotPassed, match=r"macro-f1 is 0\.\d+, wanted at least 0\.75"):
            city.promote("crowd-level", version.version)
        assert city.algorithm("crowd-level").algorithm.aliases["champion"] == 1


def test_four_eyes_means_two_keys(platform):
    with platform.client() as first:
        first.set_approval("crowd-level", "four-eyes")
        asked = first.promote("crowd-level", 1, alias="pilot")
        assert asked.state == "waiting"
        with pytest.raises(NotAllowed, match="four eyes"):
            first.approve(asked.id)
        key = first.add_key(NewKey(department="platform", role="admin"))
        with platform.client(key.secret) as second:
            assert second.approve(asked.id).state == "done"
        assert first.algorithm("crowd-level").algorithm.aliases["pilot"] == 1
        first.set_approval("crowd-level", "self")
        acts = [entry.action for entry in platform.audit()]
        assert {"promotion.ask", "promotion.approve", "alias.move", "algorithm.approval"} <= {*acts}


def at_a_terminal(home, *arguments, types):
    """Run a command as a person does, who answers its question."""
    import os
    import pty
    import subprocess
    import sys

    ours, its = pty.openpty()
    try:
        running = subprocess.Popen(
            [sys.executable, "-P", "-m", "citybrain.platform.cli.main", *arguments], stdin=its,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "CITYBRAIN_HOME": str(home)},
        )  # fmt: skip
        os.write(ours, types.encode())
        shown, _ = running.communicate(timeout=120)
        return running.returncode, shown
    finally:
        os.close(ours)
        os.close(its)


def test_a_person_at_a_terminal_is_asked_before_the_champion_changes(platform, example):
    with platform.client() as city:
        city.predict("crowd-level", example)
        before = len(city.promotions())
        home = platform.home.root
        code, shown = at_a_terminal(home, "promote", "crowd-level@1", types="n\n")
        assert code == 1
        assert "platform" in shown, "who called"
        assert "Make version 1 the champion of crowd-level?" in shown
        assert len(city.promotions()) == before
        code, shown = at_a_terminal(home, "promote", "crowd-level@1", types="y\n")
        assert (code, "is done" in shown) == (0, True), shown
        code, shown = at_a_terminal(home, "promote", "crowd-level@1", "--yes", types="")
        assert (code, "Make version" in shown) == (0, False), shown


def test_a_retirement_reaches_callers_through_http_and_grpc_and_can_be_undone(platform, example):
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    url = f"{platform.url}/v1/algorithms/crowd-level/predict"
    headers = {"authorization": f"Bearer {platform.key}"}

    def call():
        return httpx.post(url, json={"inputs": example}, headers=headers)

    with platform.client() as city:
        assert "sunset" not in call().headers
        city.retire("crowd-level", "2099-01-31", version=1)
        wait_for(lambda: "sunset" in call().headers, 10)
        answer = call()
        assert answer.status_code == 200
        assert answer.headers["deprecation"].startswith("@")
        assert answer.headers["sunset"] == "Sat, 31 Jan 2099 16:00:00 GMT"
        channel = grpc.insecure_channel(platform.grpc)
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        _, rpc = stub.ModelMetadata.with_call(
            service_pb2.ModelMetadataRequest(name="crowd-level"), metadata=tuple(headers.items())
        )
        assert dict(rpc.trailing_metadata())["sunset"] == answer.headers["sunset"]
        channel.close()
        city.undo_retirement("crowd-level", 1)
        wait_for(lambda: "sunset" not in call().headers, 10)
        city.retire("crowd-level", f"{now() + timedelta(seconds=2):%Y-%m-%dT%H:%M:%S%z}")
        refused = wait_for(lambda: (found := call()).status_code == 410 and found, 15)
        assert refused.json()["code"] == "retired"
        city.undo_retirement("crowd-level")
        wait_for(lambda: call().status_code == 200, 10)


def test_a_changed_file_never_starts(platform, tmp_path):
    """The replica checks the digest of what it loads; one flipped byte and it refuses."""
    from citybrain.models.predictor import Predictor

    with platform.client() as city:
        digest = city.version("crowd-level", "1").digest
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in (platform.home.packages / digest).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    assert Predictor.open(folder, digest=digest)
    data = bytearray((folder / "model.onnx").read_bytes())
    data[100] ^= 1
    (folder / "model.onnx").write_bytes(data)
    with pytest.raises(DigestMismatch):
        Predictor.open(folder, digest=digest)


def test_a_broken_model_is_refused_where_it_is_handed_in(platform, tmp_path):
    folder = tmp_path / "broken-sum"
    command(platform.home.root, "init", str(folder), "--task", "tensor")
    manifest = yaml.safe_load((folder / MANIFEST).read_text().replace("...", "[]"))
    manifest["options"] = {side: [{"name": "x", "dtype": "FP32", "shape": [-1, 3]}]
                           for side in ("inputs", "outputs")}  # fmt: skip
    (folder / MANIFEST).write_text(yaml.safe_dump(manifest))
    (folder / "model.onnx").write_bytes(b"this is no graph")
    with platform.client() as city:
        with pytest.raises(BadPackage, match="not an ONNX model"):
            city.register(folder, "broken-sum")
        with pytest.raises(AlgorithmNotFound):
            city.algorithm("broken-sum")


@pytest.fixture
def doubler(platform, tmp_path):
    """A version of its own that a test may harm: name, number, the folder that replicas load."""
    name = f"doubler-{tmp_path.name[-12:].lower().replace('_', '')}".rstrip("-")
    with platform.client() as city:
        version = register_doubler(city, tmp_path, name)
        yield name, version.version, platform.home.packages / version.digest
        try:
            city.undeploy(name, str(version.version))
        except RowNotFound:
            pass


def test_one_flipped_byte_and_the_version_does_not_start_and_says_why(platform, doubler):
    name, version, folder = doubler
    data = bytearray((folder / "model.onnx").read_bytes())
    data[20] ^= 1
    (folder / "model.onnx").write_bytes(data)
    with platform.client() as city:
        assert city.deploy(name, str(version)).state == "failed"
        (found,) = [d for d in city.deployments() if d.algorithm == name]
        assert "not those that were registered" in found.message
        assert "not those that were registered" in city.logs(name, str(version))["message"]
        acts = [entry.action for entry in platform.audit() if entry.object == f"{name}@{version}"]
        assert "version.refused" in acts
        city.undeploy(name, str(version))
        wait_for(lambda: name not in {d.algorithm for d in city.deployments()})
        page = city._http.get(f"/algorithms/{name}", headers={"accept-language": "en"}).text
        assert f"Did not start as {version} on" in page
        assert "not those that were registered" in page, "and it does not go with the deployment"
        shown = command(platform.home.root, "algorithms", name).stdout
        assert "did not start" in " ".join(shown.split())


@pytest.mark.full
def test_one_flipped_byte_under_a_running_replica_stops_it_until_the_file_is_back(
    platform, doubler
):
    name, version, folder = doubler
    row = [{"tensors": {"x": [1.0, 2.0, 3.0]}}]
    path = folder / "model.onnx"
    good = path.read_bytes()
    with platform.client() as city:

        def found():
            return next(d for d in city.deployments() if d.algorithm == name)

        def refusal():
            try:
                city.predict(name, row)
            except NotReady as refused:
                return refused.message
            return ""

        assert city.deploy(name, str(version)).state == "running"
        assert city.predict(name, row)["version"] == version
        path.write_bytes(bytes([*good[:20], good[20] ^ 1, *good[21:]]))
        assert "files are not those that were registered" in wait_for(refusal, 30)
        wait_for(lambda: found().state == "failed", 60)
        assert "not those that were registered" in found().message
        ready = f"{platform.url}/v2/models/{name}/ready"
        headers = {"authorization": f"Bearer {platform.key}"}
        wait_for(lambda: httpx.get(ready, headers=headers).status_code == 503, 10)
        assert "deployment: failed" in refusal()
        acts = [(e.action, e.actor) for e in platform.audit() if e.object == f"{name}@{version}"]
        assert acts.count(("version.refused", "reconciler")) == 1
        path.write_bytes(good)
        assert city.deploy(name, str(version)).state == "running"
        assert city.predict(name, row)["results"] == [{"tensors": {"y": [2.0, 4.0, 6.0]}}]


def test_a_revoked_signers_versions_are_refused_until_they_are_signed_again(platform, doubler):
    name, version, _ = doubler
    with platform.client() as city:
        (first,) = [k for k, v in city.signers().items() if v["state"] == "signs"]
        with pytest.raises(InvalidInput, match="signs now"):
            city.revoke_signer(first)
        city.rotate_signer()
        assert city.deploy(name, str(version)).state == "running", "the old key is trusted still"
        city.undeploy(name, str(version))
        wait_for(lambda: name not in {d.algorithm for d in city.deployments()})
        revoked = city.signers()
        try:
            city.revoke_signer(first)
            with pytest.raises(SignatureWrong, match="revoked"):
                city.deploy(name, str(version))
            city.sign(name, version)
            assert city.deploy(name, str(version)).state == "running"
            answer = city.predict(name, [{"tensors": {"x": [1.0, 2.0, 3.0]}}])
            assert answer["results"] == [{"tensors": {"y": [2.0, 4.0, 6.0]}}]
        finally:  # the other tests' versions were signed by it
            revoked[first]["state"] = "trusted"
            path = platform.home.root / "secrets" / "signers.json"
            path.write_text(json.dumps(revoked))


def test_files_swapped_behind_the_platform_are_not_loaded(platform, doubler):
    """MLflow's tags are moved by hand: the digest of one version on another."""
    from citybrain.registry.runs import DIGEST
    from citybrain.registry.tracker import open_client

    name, version, _ = doubler
    with platform.client() as city:
        other = city.version("crowd-level", "1").digest
        own = city.version(name, str(version)).digest
        client = open_client(platform.home.mlflow)
        client.set_model_version_tag(name, str(version), DIGEST, other)
        with pytest.raises(SignatureWrong, match="belongs to another"):
            city.deploy(name, str(version))
        with pytest.raises(InvalidInput, match="not those that were registered"):
            city.sign(name, version)
        client.set_model_version_tag(name, str(version), DIGEST, own)


def test_secrets_are_readable_by_their_owner_only(platform):
    root = platform.home.root
    for path in [*root.glob("*.key"), *(root / "secrets").iterdir(), *root.glob("journal/*")]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


def test_nothing_listens_but_the_doors_and_what_asks_for_credentials(platform):
    from citybrain.platform.children import marked
    from citybrain.platform.listeners import foreign_listeners

    processes = marked(platform.state()["mark"])
    assert len(processes) > 5
    assert foreign_listeners(processes, set()) == []


def test_an_inside_port_of_a_replica_refuses_a_caller_without_a_certificate(platform):
    import grpc

    ports = [
        c.laddr.port
        for p in platform.replicas()
        for c in p.net_connections("tcp")
        if c.status == "LISTEN" and c.laddr.ip == "::"
    ]
    assert ports
    for port in ports:
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
        with pytest.raises(grpc.RpcError) as refused:
            call(b"", timeout=3)
        assert refused.value.code() in (
            grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED
        )  # fmt: skip


def test_every_gateway_holds_a_lane_into_every_replica(platform):
    """Frames go over sockets; Serve handles are for the moments without one."""
    with platform.client() as city:
        running = [d for d in city.deployments() if d.state == "running"]
    names = list(platform.home.lanes.glob("*.lane"))
    assert len(names) >= len(running) > 0

    def connected():
        """A listening socket a replica, and one accepted from each gateway."""
        ends = [
            c
            for p in platform.replicas()
            for c in p.net_connections("unix")
            if c.laddr.startswith(str(platform.home.lanes))
        ]
        return len(ends) >= 2 * len(names)

    wait_for(connected, 10)


def test_ray_workers_hold_no_key_and_no_database(platform):
    secrets = [platform.key, platform.home.pepper.read_bytes().hex()]
    for process in platform.replicas():
        environment = process.environ()
        assert not [name for name in environment if "DATABASE" in name or "CITYBRAIN_KEY" in name]
        assert not [value for value in environment.values() if value in secrets]


def test_the_command_line_says_what_went_wrong_and_what_to_do(platform, tmp_path):
    home = platform.home.root
    done = command(home, "predict", "no-such-thing", "--example", check=False)
    assert done.returncode == 1
    assert "algorithm_not_found" in done.stderr
    done = command(tmp_path, "algorithms", check=False)
    assert done.returncode == 2
    assert "citybrain up" in done.stderr
    assert command(home, "algorithms", "--no-such-flag", check=False).returncode == 2
    done = command(home, "rollback", "crowd-level", "--json", check=False)
    assert json.loads(done.stderr)["error"]["code"] == "version_not_found"


def test_calls_without_a_key_are_refused_but_health_is_open(platform):
    with platform.client("") as nobody:
        with pytest.raises(MissingKey):
            nobody.algorithms()
        with pytest.raises(MissingKey):
            nobody.predict("crowd-level", [])
        assert nobody.call("GET", "/v2")["name"] == "citybrain"
    with platform.client() as admin, pytest.raises(AlgorithmNotFound):
        admin.predict("no-such-thing", [])
