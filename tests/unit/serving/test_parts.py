"""Answers in parts, in the replica: pieces in order, the whole at the end, and nothing kept for ever."""

import json

import numpy as np
import pytest
import yaml
from onnx import TensorProto, helper

from citybrain.models.predictor import Predictor
from citybrain.serving import begun
from citybrain.serving.begun import Begun, BegunAnswers
from citybrain.serving.desk import Desk
from citybrain.serving.protocols import grpc
from citybrain.serving.wire import DROP, NEXT, Call

BATCH = 4


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    """Gathers from a table of ten: an index beyond it fails in the model."""
    folder = tmp_path_factory.mktemp("gather")
    table = helper.make_tensor("table", TensorProto.FLOAT, [10], np.arange(10.0) * 2)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "x"], ["y"])], "gather",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["n", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])], [table],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    (folder / "gather.onnx").write_bytes(model.SerializeToString())
    manifest = {
        "name": "gather", "title": {"zh": "表", "en": "Table"}, "task": "tensor", "runtime": "onnx",
        "weights": "gather.onnx", "domain": "traffic", "owner": "traffic", "licence": "MIT",
        "max_batch": BATCH,
        "options": {
            "inputs": [{"name": "x", "dtype": "INT64", "shape": [-1, 1]}],
            "outputs": [{"name": "y", "dtype": "FP32", "shape": [-1, 1]}],
        },
    }  # fmt: skip
    (folder / "algorithm.yaml").write_text(yaml.safe_dump(manifest, allow_unicode=True))
    return Predictor.open(folder)


@pytest.fixture
def desk(predictor):
    return Desk(predictor, 3)


def call(values, request_id="r1", parts=True):
    items = [{"tensors": {"x": [value]}} for value in values]
    body = json.dumps({"inputs": items}).encode()
    return Call("task", body, -1, "application/json", request_id, parts=parts)


def asked(desk, first):
    """Every reply of a call, the first to the last."""
    (reply,) = desk.answer([first])
    replies = [reply]
    while reply.more:
        (reply,) = desk.answer([first._replace(codec=NEXT, body=b"")])
        replies.append(reply)
    return replies


def results(reply):
    return [item["tensors"]["y"][0] for item in json.loads(reply.body)["results"]]


def test_parts_come_in_order_and_the_last_reply_is_the_whole_answer(desk):
    values = [n % 10 for n in range(11)]
    *parts, whole = asked(desk, call(values))
    assert [(json.loads(p.body)["part"], json.loads(p.body)["row"]) for p in parts] == [
        (0, 0), (1, 4), (2, 8)
    ]  # fmt: skip
    assert [value for part in parts for value in results(part)] == [2.0 * v for v in values]
    assert all(reply.rows == 11 for reply in (*parts, whole))
    assert [whole] == desk.answer([call(values, parts=False)])
    assert len(desk._begun) == 0


def test_what_fits_into_one_piece_is_answered_whole(desk):
    assert asked(desk, call(range(BATCH))) == desk.answer([call(range(BATCH), parts=False)])


def test_a_part_shares_its_frame_with_other_calls(desk):
    desk.answer([call(range(9))])
    frame = [call([7], "r2", parts=False), call([], "r1")._replace(codec=NEXT), call([5], "r3")]
    other, part, third = desk.answer(frame)
    assert (results(other), results(third)) == ([14.0], [10.0])
    assert results(part) == [8.0, 10.0, 12.0, 14.0]
    assert part.more


def test_an_error_in_the_middle_ends_the_answer(desk):
    first, error = asked(desk, call([0, 1, 2, 3, 4, 99, 5, 6, 7]))
    assert first.more
    assert (error.code, error.more) == ("model_failed", False)
    assert len(desk._begun) == 0


@pytest.mark.parametrize("body", [b"{", b'{"inputs":[]}', b'{"inputs":[{"tensors":{"z":1}}]}'])
def test_bad_input_is_refused_before_any_part(desk, body):
    (reply,) = asked(desk, call([])._replace(body=body))
    assert reply.code in ("bad_json", "bad_tensor")


def test_a_dropped_answer_is_here_no_more(desk):
    desk.answer([call(range(9))])
    desk.answer([call([])._replace(codec=DROP)])
    (reply,) = desk.answer([call([])._replace(codec=NEXT)])
    assert reply.code == "not_ready"
    desk.answer([call([], "unknown")._replace(codec=DROP)])


def test_parts_over_grpc_say_which_they_are(desk):
    from tritonclient.grpc import service_pb2 as pb

    request = pb.ModelInferRequest(id="7")
    request.inputs.add(name="x", datatype="INT64", shape=[9, 1])
    request.raw_input_contents.append(np.arange(9).tobytes())
    first = Call("grpc", request.SerializeToString(), -1, "", "r9", parts=True)
    replies = asked(desk, first)
    found = [pb.ModelInferResponse.FromString(reply.body) for reply in replies]
    assert [answer.id for answer in found] == ["7"] * 4
    assert [answer.parameters["row"].int64_param for answer in found[:3]] == [0, 4, 8]
    assert "part" not in found[3].parameters
    rows = [grpc.answer(reply.body)["y"].ravel().tolist() for reply in replies]
    assert rows[3] == [2.0 * n for n in range(9)] == rows[0] + rows[1] + rows[2]


class TestBegunAnswers:
    """How much is kept of answers that nobody ends."""

    def sized(self, size):
        found = Begun(call([1]), None, 2, 0.0, [])
        found.size = size
        return found

    def test_so_many_and_no_more(self):
        answers = BegunAnswers()
        kept = [answers.keep(str(n), self.sized(8)) for n in range(begun.MOST + 3)]
        assert kept == [True] * begun.MOST + [False] * 3

    def test_so_many_bytes_and_no_more(self):
        answers = BegunAnswers()
        assert answers.keep("1", self.sized(begun.MOST_BYTES - 10))
        assert not answers.keep("2", self.sized(11))
        assert answers.keep("3", self.sized(10))

    def test_who_is_not_asked_for_makes_room(self):
        moment = 0.0
        answers = BegunAnswers(lambda: moment)
        for n in range(begun.MOST):
            assert answers.keep(str(n), self.sized(8))
        moment = begun.IDLE_SECONDS - 1
        assert answers.find("5")
        assert not answers.keep("new", self.sized(8))
        moment = begun.IDLE_SECONDS + 1
        assert answers.keep("new", self.sized(8))
        assert len(answers) == 2
        assert answers.find("5")

    def test_inputs_and_outputs_count(self, predictor):
        desk = Desk(predictor, 1)
        desk.answer([call(range(9))])
        kept = desk._begun.find("r1")
        assert kept.size == 9 * 8 + 4 * 4


def test_a_full_replica_answers_whole(desk, monkeypatch):
    monkeypatch.setattr(begun, "MOST", 1)
    assert desk.answer([call(range(9), "r1")])[0].more
    (whole,) = desk.answer([call(range(9), "r2")])
    assert not whole.more
    assert len(results(whole)) == 9
