"""Answers that stand for a while: one forward for the same input, never another input's answer."""

import numpy as np
import orjson
import pytest
from gauges import gauge

from citybrain.core.errors import CityBrainError
from citybrain.core.tensors import bytes_array
from citybrain.models.predictor import Predictor
from citybrain.serving.answer_cache import AnswerCache, digest
from citybrain.serving.desk import Desk
from citybrain.serving.wire import Call


@pytest.fixture
def predictor(tmp_path):
    """A gauge whose answers stand for a minute; what reached its model is noted."""
    folder = gauge(tmp_path / "good", "good")
    manifest = folder / "algorithm.yaml"
    manifest.write_text(manifest.read_text() + "\nanswer_seconds: 60\n")
    found = Predictor.open(folder)
    found.reached, infer = [], found.runtime.infer

    def note(inputs):
        found.reached.append(inputs["features"][:, 0].tolist())
        return infer(inputs)

    found.runtime.infer = note
    return found


def call(x, codec="task", number=0):
    if codec == "task":
        body = {"inputs": [{"features": {"x": x, "y": 1.0}}]}
    else:
        tensor = {"name": "features", "datatype": "FP32", "shape": [1, 2], "data": [x, 1.0]}
        body = {"inputs": [tensor]}
    return Call(codec, orjson.dumps(body), -1, "application/json", f"r{number}")


def test_the_same_input_is_one_forward_whatever_door_it_came_by(predictor):
    desk = Desk(predictor, 3)
    first = desk.answer([call(1.0, number=1), call(2.0), call(1.0, number=2), call(1.0, "oip")])
    again = desk.answer([call(1.0, number=3), call(3.0)])
    assert predictor.reached == [[1.0, 2.0], [3.0]]
    bodies = [orjson.loads(reply.body) for reply in (*first[:1], first[2], *again[:1])]
    assert [body["request_id"] for body in bodies] == ["r1", "r2", "r3"]
    assert all(body["results"] == bodies[0]["results"] for body in bodies)
    assert all((reply.rows, reply.amount) == (1, 1.0) for reply in (*first, *again))


def test_without_the_word_each_call_reaches_the_model(tmp_path, predictor):
    plain = Predictor.open(gauge(tmp_path / "plain", "good"))
    assert plain.package.manifest.answer_seconds == 0
    assert not isinstance(Desk(plain, 1)._model, AnswerCache)


def test_what_failed_is_asked_again(predictor):
    cache = AnswerCache(predictor, 60)
    wrong = {"features": np.full((1, 2), np.nan, np.float32)}
    for _ in range(2):
        assert isinstance(cache.infer([wrong])[0], CityBrainError)
    assert len(cache._kept) == 0


def test_it_ends_with_its_time_and_its_room(predictor):
    rows = [{"features": np.array([[n, 1]], np.float32)} for n in range(200)]
    short = AnswerCache(predictor, 0.05)
    short.infer(rows[:1])
    assert len(short._kept) == 1
    small = AnswerCache(predictor, 60, most=10_000)
    small.infer(rows)
    assert small._kept.currsize <= 10_000
    assert 0 < len(small._kept) < 200
    answers = small.infer(rows)
    fresh = predictor.infer(rows)
    for kept, wanted in zip(answers, fresh, strict=True):
        np.testing.assert_array_equal(kept["probabilities"], wanted["probabilities"])


def test_ten_thousand_inputs_have_ten_thousand_digests():
    """Also those whose bytes alone are the same: other names, shapes, datatypes, borders of texts."""
    a = np.zeros((2, 3), np.float32)
    alike = [
        {"x": a}, {"y": a}, {"x": a.reshape(3, 2)}, {"x": a.view(np.int32)}, {"x": a, "z": a[:0]},
        {"t": bytes_array([b"ab", b"c"])}, {"t": bytes_array([b"a", b"bc"])},
        {"t": bytes_array([b"abc"])},
    ]  # fmt: skip
    rng = np.random.default_rng(2)
    many = [{"x": rng.random((1, 4), np.float32)} for _ in range(10_000)]
    assert len({digest(one) for one in alike + many}) == len(alike) + len(many)
    assert digest({"x": a, "y": a}) == digest({"y": a.copy(), "x": np.asfortranarray(a)})
