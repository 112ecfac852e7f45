"""The model's own tensors: every datatype through ONNX Runtime, inputs that may be left out."""

import numpy as np
import pytest
from conformance import echo_model
from conformance.bodies import DATATYPES, SAMPLES

from citybrain.core.errors import BadTensor
from citybrain.core.tensors import DTYPES, bytes_array
from citybrain.models.predictor import Predictor


@pytest.fixture(scope="module")
def echo(tmp_path_factory):
    return Predictor.open(echo_model.write(tmp_path_factory.mktemp("echo")))


def array(datatype):
    if datatype == "BYTES":
        return bytes_array([text.encode() for text in SAMPLES["BYTES"][0]], (1, 3))
    return np.array(SAMPLES[datatype], dtype=DTYPES[datatype])


@pytest.mark.parametrize("datatype", DATATYPES)
def test_a_graph_takes_and_gives_every_datatype(echo, datatype):
    name = datatype.lower()
    (answer,) = echo.infer([{f"x_{name}": array(datatype)}])
    assert answer[f"y_{name}"].dtype == DTYPES[datatype]
    np.testing.assert_array_equal(answer[f"y_{name}"], array(datatype))


def test_an_input_that_is_left_out_is_zeros_of_as_many_rows(echo):
    (answer,) = echo.infer([{"x_int8": np.ones((4, 2), np.int8)}])
    assert answer["y_fp32"].tolist() == [[0.0]] * 4
    assert answer["y_bytes"].tolist() == [[b""]] * 4


def test_a_text_that_is_not_unicode_harms_no_call_that_shares_the_batch(echo):
    good, bad = ({"x_bytes": bytes_array([value], (1, 1))} for value in (b"road", b"\xff"))
    first, refused, last = echo.infer([good, bad, good])
    assert isinstance(refused, BadTensor)
    assert first["y_bytes"].tolist() == last["y_bytes"].tolist() == [[b"road"]]


@pytest.mark.parametrize(
    ("datatype", "value"), [("UINT8", 300), ("INT8", -129), ("BOOL", 2), ("INT32", 1.5)]
)
def test_a_value_beyond_its_datatype_is_refused_and_does_not_wrap(echo, datatype, value):
    item = echo.task.Input({f"x_{datatype.lower()}": [value]})
    with pytest.raises(BadTensor):
        echo.predict([item])


def test_items_are_answered_as_plain_lists(echo):
    item = echo.task.Input({"x_bf16": [1.5, 2.0], "x_bytes": ["road"]})
    (row,) = echo.predict([item])
    assert row.tensors["y_bf16"] == [1.5, 2.0]
    assert row.tensors["y_bytes"] == ["road"]


@pytest.mark.parametrize("datatype", DATATYPES)
def test_an_item_of_every_datatype_is_read_and_written_as_it_was(echo, datatype):
    name, (row,) = datatype.lower(), SAMPLES[datatype]
    (result,) = echo.predict([echo.task.Input({f"x_{name}": row})])
    assert result.tensors[f"y_{name}"] == row


@pytest.mark.parametrize("row", [[0, 2**64], [2**63, -1], [2**63, 0.5], [2**63, "1"]])
def test_what_is_no_uint64_is_refused_however_numpy_reads_it(echo, row):
    with pytest.raises(BadTensor):
        echo.predict([echo.task.Input({"x_uint64": row})])
