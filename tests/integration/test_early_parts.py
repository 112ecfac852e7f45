"""The first part of an answer comes early, over a real platform: rows, sentences, windows of sound."""

import base64
import io
import json
import queue
import sqlite3
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
import tritonclient.grpc as triton
import yaml
from onnx import TensorProto, helper, numpy_helper
from support import wait_for
from support_models import write_package

import citybrain
from citybrain.core.errors import BadTensor
from citybrain.models.audio import encode_wav
from citybrain.models.digit_voices import draw_voice, speak

pytestmark = pytest.mark.platform
ROWS, SIZE, STEPS = 8, 700, 6


def laborious(folder):
    """A graph that multiplies matrices for tens of milliseconds a row, and gives its input doubled."""
    rng = np.random.default_rng(0)
    matrix = rng.uniform(0, 2 / SIZE, (SIZE, SIZE)).astype(np.float32)
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["matrix", "sum"], ["m0"]),
        *(helper.make_node("MatMul", [f"m{n}", "matrix"], [f"m{n + 1}"]) for n in range(STEPS)),
        helper.make_node("ReduceMax", [f"m{STEPS}"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "zero"], ["nothing"]),
        helper.make_node("Add", ["x", "x"], ["double"]),
        helper.make_node("Add", ["double", "nothing"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 1]) for n in "xy"]
    constants = [
        numpy_helper.from_array(matrix, "matrix"),
        numpy_helper.from_array(np.float32(0), "zero"),
    ]
    graph = helper.make_graph(nodes, "laborious", values[:1], values[1:], constants)
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    (folder / "laborious.onnx").write_bytes(model.SerializeToString())
    tensors = {n: [{"name": n, "dtype": "FP32", "shape": [-1, 1]}] for n in "xy"}
    manifest = {
        "name": "laborious", "title": {"zh": "慢", "en": "Laborious"}, "task": "tensor",
        "runtime": "onnx", "weights": "laborious.onnx", "domain": "traffic", "owner": "platform",
        "licence": "MIT", "max_batch": 1,
        "options": {"inputs": tensors["x"], "outputs": tensors["y"]},
    }  # fmt: skip
    (folder / "algorithm.yaml").write_text(yaml.safe_dump(manifest, allow_unicode=True))
    return folder


@pytest.fixture(scope="module")
def deployed(platform, tmp_path_factory):
    """Registers a folder and has it answer, while this file runs."""
    names = []

    def make(name, folder):
        with platform.client() as city:
            version = str(city.register(folder, name).version)
            assert city.deploy(name, version, wait=240).state == "running"
            ready = f"/v2/models/{name}/ready"
            wait_for(lambda: city.call("GET", ready) == {"ready": True})
        names.append((name, version))
        return name

    yield make
    with platform.client() as city:
        for name, version in names:
            city.undeploy(name, version)


@pytest.fixture(scope="module")
def slow(deployed, tmp_path_factory):
    return deployed("laborious", laborious(tmp_path_factory.mktemp("laborious")))


@pytest.fixture
def http(platform):
    headers = {"authorization": f"Bearer {platform.key}"}
    with httpx.Client(base_url=platform.url, headers=headers, timeout=60, trust_env=False) as found:
        yield found


def events(http, name, **body):
    """Each event: its kind, what it says, and the seconds until it came."""
    began = time.monotonic()
    path, accept = f"/v1/algorithms/{name}/predict", {"accept": "text/event-stream"}
    found, kind = [], ""
    with http.stream("POST", path, headers=accept, **body) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            word, _, value = line.partition(": ")
            if word == "event":
                kind = value
            elif word == "data":
                found.append((kind, json.loads(value), time.monotonic() - began))
    return found, answer.headers["x-request-id"]


def items(count=ROWS):
    return {"inputs": [{"tensors": {"x": [float(n)]}} for n in range(1, count + 1)]}


def test_rows_come_one_after_another_long_before_the_last(platform, http, slow):
    plain = http.post(f"/v1/algorithms/{slow}/predict", json=items()).json()
    found, call = wait_for(lambda: (seen := events(http, slow, json=items()))[0][1:] and seen)
    assert [kind for kind, _, _ in found] == ["part"] * ROWS + ["result"]
    first, last = found[0][2], found[-1][2]
    print(f"rows: first part {first * 1e3:.0f} ms, whole answer {last * 1e3:.0f} ms")
    assert first < last / 2
    assert found[-1][1]["results"] == plain["results"]
    assert [data["row"] for _, data, _ in found[:-1]] == list(range(ROWS))
    told = wait_for(lambda: (seen := http.get(f"/v1/requests/{call}").json()).get("rows") and seen)
    assert (told["rows"], told["status"], told["state"]) == (ROWS, 200, "SERVED")
    query = "select count(*) from requests where request_id = ?"
    with sqlite3.connect(f"file:{platform.home.database}?mode=ro", uri=True) as connection:
        assert connection.execute(query, (call,)).fetchone() == (1,)


def test_a_stream_of_tritonclient_gives_parts_to_who_asks(platform, slow):
    answers = queue.Queue()
    x = triton.InferInput("x", [ROWS, 1], "FP32")
    x.set_data_from_numpy(np.arange(1, ROWS + 1, dtype=np.float32)[:, None])
    with triton.InferenceServerClient(platform.grpc) as client:
        assert client.is_server_live()  # the way there is open before the clock runs
        began = time.monotonic()
        client.start_stream(
            lambda result, error: answers.put((result, error, time.monotonic() - began)),
            headers={"authorization": f"Bearer {platform.key}"},
        )
        client.async_stream_infer(slow, [x], request_id="all", parameters={"parts": True})
        client.async_stream_infer(slow, [x], request_id="whole")
        found = [answers.get(timeout=60) for _ in range(ROWS + 2)]
        client.stop_stream()
    assert [error for _, error, _ in found] == [None] * len(found)
    told = [result.get_response() for result, _, _ in found]
    assert [one.id for one in told] == ["all"] * (ROWS + 1) + ["whole"]
    final = [one.parameters["triton_final_response"].bool_param for one in told]
    assert final == [False] * ROWS + [True, True]
    assert [one.parameters["row"].int64_param for one in told[:ROWS]] == list(range(ROWS))
    assert len({one.parameters["x-request-id"].string_param for one in told[: ROWS + 1]}) == 1
    values = [result.as_numpy("y").ravel().tolist() for result, _, _ in found]
    whole = [2.0 * n for n in range(1, ROWS + 1)]
    assert values == [[value] for value in whole] + [whole, whole]
    first, last = found[0][2], found[ROWS][2]
    print(f"gRPC: first part {first * 1e3:.0f} ms, whole answer {last * 1e3:.0f} ms")
    assert first < last / 2


def test_a_cancelled_stream_frees_the_replica(platform, http, slow):
    x = triton.InferInput("x", [200, 1], "FP32")
    x.set_data_from_numpy(np.ones((200, 1), np.float32))
    answers = queue.Queue()
    with triton.InferenceServerClient(platform.grpc) as client:
        headers = {"authorization": f"Bearer {platform.key}"}
        client.start_stream(lambda result, error: answers.put((result, error)), headers=headers)
        client.async_stream_infer(slow, [x], parameters={"parts": True})
        assert answers.get(timeout=60)[1] is None
        client.stop_stream(cancel_requests=True)
    began = time.monotonic()
    assert http.post(f"/v1/algorithms/{slow}/predict", json=items(1)).status_code == 200
    took = time.monotonic() - began
    print(f"after a cancelled stream: {took * 1e3:.0f} ms")
    assert took < 5, "200 rows would take longer"


def test_the_client_gives_parts_and_raises_what_went_wrong(platform, slow):
    with platform.client() as city:
        *parts, whole = city.predict_in_parts(slow, items(3)["inputs"])
        assert [part["part"] for part in parts] == [0, 1, 2]
        assert whole["results"] == [part["results"][0] for part in parts]
        with pytest.raises(BadTensor):
            list(city.predict_in_parts(slow, [{"tensors": {"colour": [1.0]}}]))


def test_a_text_is_heard_from_its_first_sentence_on(http, deployed, tmp_path):
    name = deployed("tiny-vits", write_package("vits", tmp_path / "vits", max_characters=2_000))
    text = "the road is closed today. take the other one, please! " * 20
    body = {"inputs": [{"text": text.strip()}]}
    found, _ = wait_for(lambda: (seen := events(http, name, json=body))[0][1:] and seen)
    *parts, (kind, whole, last) = found
    assert (kind, len(parts)) == ("result", 40)
    assert parts[0][2] < last / 2
    print(f"speech: first sentence {parts[0][2] * 1e3:.0f} ms, all {last * 1e3:.0f} ms")
    sounds = [sound_of(data) for _, data, _ in parts]
    assert np.array_equal(np.concatenate(sounds), sound_of(whole))


def sound_of(data):
    (speech,) = data["results"]
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(speech["audio"])), dtype="int16")
    assert rate == speech["sample_rate"]
    return samples


def test_a_long_recording_is_read_window_by_window(http, deployed):
    zoo = Path(citybrain.__file__).parent / "models" / "zoo" / "spoken-digits"
    name = deployed("spoken-digits", zoo)
    rng = np.random.default_rng(6)
    voice = draw_voice(rng)
    said = ["110", "2745", "39", "8061", "5527"] * 8
    pause = np.zeros(round(0.6 * voice.rate), np.float32)
    sound = np.concatenate([piece for text in said for piece in (speak(text, voice, rng), pause)])
    files = {"file": ("call.wav", encode_wav(sound, voice.rate))}
    found, _ = wait_for(lambda: (seen := events(http, name, files=files))[0][1:] and seen)
    *parts, (kind, whole, last) = found
    seconds = len(sound) / voice.rate
    assert kind == "result"
    assert len(parts) >= seconds // 15
    (text,) = [result["text"] for result in whole["results"]]
    assert "".join(data["results"][0]["text"] for _, data, _ in parts) == text
    ends = [data["end"] for _, data, _ in parts]
    assert [data["begin"] for _, data, _ in parts] == [0.0, *ends[:-1]]
    assert ends[-1] == pytest.approx(seconds, abs=0.01)
    right = sum(a == b for a, b in zip(text, "".join(said), strict=False))
    print(
        f"{seconds:.0f} s of digits: first window {parts[0][2] * 1e3:.0f} ms, all {last * 1e3:.0f} ms,"
        f" {right} of {len(''.join(said))} digits in place"
    )
    assert parts[0][2] < last
    plain = http.post(f"/v1/algorithms/{name}/predict", files=files).json()["results"][0]["text"]
    assert abs(len(plain) - len(text)) <= 3
