"""The protocol codec: what is encoded is decoded, what lies is refused."""

import json
import os

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from citybrain.core.errors import CityBrainError, InvalidInput
from citybrain.core.tensors import DTYPES, FLOATS, bytes_array, datatype
from citybrain.serving.protocols import oip

MANY = 100 if "TRUST_FULL" in os.environ else 1
NUMERIC = sorted(set(DTYPES) - {"BYTES"})


@st.composite
def tensors(draw):
    name = draw(st.sampled_from(NUMERIC))
    shape = draw(array_shapes(min_dims=1, max_dims=3, max_side=4))
    elements = {"allow_nan": False, "allow_infinity": False} if name in FLOATS else None
    if name == "BF16":  # hypothesis draws numpy's own types
        return draw(arrays(np.float16, shape, elements=elements)).astype(DTYPES[name])
    return draw(arrays(DTYPES[name], shape, elements=elements))


def body_of(array, *, binary):
    entry = {"name": "x", "datatype": datatype(array), "shape": list(array.shape)}
    if not binary:
        return json.dumps({"inputs": [entry | {"data": array.ravel().tolist()}]}).encode(), -1
    raw = oip.to_bytes(array)
    entry["parameters"] = {"binary_data_size": len(raw)}
    head = json.dumps({"inputs": [entry]}).encode()
    return head + raw, len(head)


@settings(max_examples=150 * MANY, deadline=None)
@given(tensors(), st.booleans())
def test_what_is_sent_is_what_arrives(array, binary):
    body, length = body_of(array, binary=binary)
    _, found = oip.decode(body, length)
    assert found["x"].dtype == array.dtype
    assert found["x"].shape == array.shape
    np.testing.assert_array_equal(found["x"], array)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=6))
def test_byte_strings_survive_the_binary_extension(values):
    array = bytes_array(values)
    body, length = body_of(array, binary=True)
    _, found = oip.decode(body, length)
    assert found["x"].tolist() == values


@settings(max_examples=300 * MANY, deadline=None)
@given(st.binary(max_size=300), st.integers(-3, 400))
def test_any_bytes_are_decoded_or_refused_and_never_crash(body, length):
    try:
        oip.decode(body, length)
    except InvalidInput as error:
        assert error.message


@settings(max_examples=200 * MANY, deadline=None)
@given(tensors(), st.data())
def test_a_body_with_one_changed_byte_is_decoded_or_refused(array, data):
    body, length = body_of(array, binary=True)
    place = data.draw(st.integers(0, len(body) - 1))
    changed = body[:place] + bytes([body[place] ^ (1 << data.draw(st.integers(0, 7)))])
    changed += body[place + 1 :]
    try:
        oip.decode(changed, length)
    except InvalidInput as error:
        assert error.message


def test_nested_and_flat_data_are_the_same():
    flat = b'{"inputs":[{"name":"x","datatype":"INT32","shape":[2,2],"data":[1,2,3,4]}]}'
    nested = flat.replace(b"[1,2,3,4]", b"[[1,2],[3,4]]")
    assert oip.decode(flat, -1)[1]["x"].tolist() == oip.decode(nested, -1)[1]["x"].tolist()


def test_outputs_come_as_they_were_asked_for():
    request, _ = oip.decode(
        json.dumps(
            {
                "id": "7",
                "inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}],
                "outputs": [{"name": "b", "parameters": {"binary_data": True}}, {"name": "c"}],
            }
        ).encode(),
        -1,
    )
    answers = {"a": np.ones(2, np.float32), "b": np.arange(2, dtype=np.int64),
               "c": bytes_array([b"hi"])}  # fmt: skip
    body, length = oip.encode(request, answers, "m", "3")
    head = json.loads(body[:length])
    assert head["id"] == "7"
    assert (head["model_name"], head["model_version"]) == ("m", "3")
    assert [o["name"] for o in head["outputs"]] == ["b", "c"]
    assert head["outputs"][1]["data"] == ["hi"]
    assert np.frombuffer(body[length:], np.int64).tolist() == [0, 1]


class TestLargeBodies:
    """What simdjson reads is what msgspec reads; what it leaves alone gets the same words."""

    def body(self, datatype, data, shape=None, **more):
        tensor = {"name": "x", "datatype": datatype, "shape": shape or [len(data)], "data": data}
        return orjson.dumps({"inputs": [tensor | more], "id": "7", "outputs": [{"name": "y"}]})

    def both_ways(self, body, monkeypatch):
        found = []
        for least in (0, 1 << 60):
            monkeypatch.setattr(oip, "LARGE", least)
            try:
                request, tensors = oip.decode(body, -1)
                array = tensors["x"]
                found.append((request.id, [o.name for o in request.outputs], array.dtype, array.shape,
                              array.tobytes()))  # fmt: skip
            except CityBrainError as error:
                found.append((error.code, error.message))
        assert found[0] == found[1]
        return found[0]

    @pytest.mark.parametrize(
        "datatype", ["FP32", "FP64", "FP16", "INT8", "INT64", "UINT8", "UINT64"]
    )
    def test_numbers_are_the_same(self, datatype, monkeypatch):
        values = np.random.default_rng(4).normal(size=6000) * 100
        data = values.tolist() if datatype.startswith("FP") else np.abs(values).astype(int).tolist()
        if datatype in ("INT8", "UINT8"):
            data = [value % 100 for value in data]
        body = self.body(datatype, data, [2, 3000])
        assert len(body) > 16_384
        assert self.both_ways(body, monkeypatch)[3] == (2, 3000)

    @pytest.mark.parametrize(
        ("datatype", "data"),
        [
            ("FP32", [1, 2.5, -0.0, 1e300, 5e-324, 2**63, 0.1]),
            ("FP32", ["1", 2]), ("FP32", [1, None]), ("FP32", [True]), ("FP32", [[1, 2], [3]]),
            ("FP32", [[1, 2], [3, 4]]), ("FP32", []), ("INT8", [128]), ("UINT8", [-1]), ("INT64", [2**63]),
            ("INT64", [1.0]), ("UINT64", [2**64 - 1]), ("BOOL", [True, False]), ("BYTES", ["a", "b"]),
            ("BF16", [1.0]), ("FP99", [1]), ("FP32", "text"), ("FP32", {"a": 1}),
        ],
    )  # fmt: skip
    def test_edges_are_the_same(self, datatype, data, monkeypatch):
        shape = [2, 2] if data == [[1, 2], [3, 4]] else None
        self.both_ways(self.body(datatype, data, shape), monkeypatch)

    @pytest.mark.parametrize(
        "more",
        [{"shape": [3]}, {"shape": ["2"]}, {"shape": None}, {"name": 5}, {"parameters": {"classification": 1}},
         {"parameters": {"binary_data_size": 8}}, {"datatype": None}, {"unknown": [1, 2]}],
    )  # fmt: skip
    def test_what_is_wrong_beside_the_data_is_said_the_same(self, more, monkeypatch):
        body = orjson.loads(self.body("FP32", [1.0, 2.0]))
        body["inputs"][0] |= more
        found = self.both_ways(orjson.dumps(body), monkeypatch)
        assert len(found) == (5 if "unknown" in more else 2)

    @pytest.mark.parametrize(
        "body", [b"", b"[]", b"{}", b'{"inputs":5}', b'{"inputs":[5]}', b"{" * 50]
    )
    def test_other_bodies_are_refused_the_same(self, body, monkeypatch):
        self.both_ways(body, monkeypatch)
