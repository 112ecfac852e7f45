"""The binary tensor extension: raw bytes behind the JSON, in and out."""

import json
import struct

import pytest

from conformance.bodies import (
    DATATYPES,
    SAMPLES,
    binary,
    flat,
    is_binary,
    only,
    outputs_of,
    pack,
    tensor,
)
from conformance.servers import refused

pytestmark = [pytest.mark.platform, pytest.mark.door("REST, binary")]
feature = pytest.mark.feature
ALL_BINARY = {"binary_data_output": True}


def expected(datatype):
    return {f"y_{datatype.lower()}": (datatype, [1, 3], flat(SAMPLES[datatype]))}


@feature("every datatype")
@pytest.mark.parametrize("datatype", DATATYPES)
def test_raw_bytes_come_back_as_json(server, datatype):
    answer = server.ask_binary(binary(datatype), outputs=only(datatype))
    assert answer.status_code == 200, answer.text
    assert outputs_of(answer) == expected(datatype)


@feature("every datatype")
@pytest.mark.parametrize("datatype", DATATYPES)
def test_json_comes_back_as_raw_bytes(server, datatype):
    answer = server.ask(tensor(datatype), outputs=only(datatype, binary_data=True))
    assert answer.status_code == 200, answer.text
    assert is_binary(answer, f"y_{datatype.lower()}")
    assert outputs_of(answer) == expected(datatype)


@feature("every datatype")
@pytest.mark.parametrize("datatype", DATATYPES)
def test_raw_bytes_come_back_as_raw_bytes(server, datatype):
    answer = server.ask_binary(binary(datatype), outputs=only(datatype, binary_data=True))
    assert answer.status_code == 200, answer.text
    assert is_binary(answer, f"y_{datatype.lower()}")
    assert outputs_of(answer) == expected(datatype)


@feature("every datatype")
def test_raw_bytes_of_many_inputs_stand_in_their_order_between_json_inputs(server):
    """Every other input is binary; every other output too, the other way round."""
    entries, tail, outputs = [], b"", []
    for index, datatype in enumerate(DATATYPES):
        entry, raw = binary(datatype) if index % 2 else (tensor(datatype), b"")
        entries.append(entry)
        tail += raw
        outputs += only(datatype, binary_data=not index % 2)
    answer = server.ask(*entries, raw=tail, outputs=outputs)
    assert answer.status_code == 200, answer.text
    assert outputs_of(answer) == {k: v for name in DATATYPES for k, v in expected(name).items()}
    assert is_binary(answer, "y_bool")
    assert not is_binary(answer, "y_int8")


@feature("binary by request and by output")
@pytest.mark.parametrize(
    ("parameters", "wish", "raw"),
    [({}, {}, False), (ALL_BINARY, {}, True), ({}, {"binary_data": True}, True),
     ({}, {"binary_data": False}, False), (ALL_BINARY, {"binary_data": False}, False),
     ({"binary_data_output": False}, {"binary_data": True}, True)],
)  # fmt: skip
def test_what_an_output_asks_for_goes_before_what_the_request_asks_for(
    server, parameters, wish, raw
):
    answer = server.ask(tensor("FP32"), outputs=only("FP32", **wish), parameters=parameters)
    assert is_binary(answer, "y_fp32") == raw


@feature("binary by request and by output")
def test_all_outputs_are_binary_when_the_request_says_so_and_names_none(server):
    answer = server.ask(tensor("FP32"), parameters=ALL_BINARY)
    assert is_binary(answer, "y_fp32")
    assert is_binary(answer, "twice")


@feature("binary by request and by output")
def test_one_output_may_be_binary_beside_one_in_json(server):
    wishes = [*only("FP32", binary_data=True), {"name": "twice"}]
    answer = server.ask(tensor("FP32"), outputs=wishes)
    assert is_binary(answer, "y_fp32")
    assert not is_binary(answer, "twice")


@feature("shapes")
@pytest.mark.parametrize("shape", [(1, 1), (5, 2), (64, 64), (1, 0)])
def test_every_size_of_batch_and_row_is_served(server, shape):
    rows = [[float(row + column) for column in range(shape[1])] for row in range(shape[0])]
    answer = server.ask_binary(binary("FP32", rows), outputs=only("FP32", binary_data=True))
    assert outputs_of(answer)["y_fp32"] == ("FP32", list(shape), flat(rows))


def post_with_length(server, length, tail=b""):
    head = json.dumps({"inputs": [binary("FP32")[0]], "outputs": only("FP32")}).encode()
    length = length(len(head)) if callable(length) else length
    body = head + binary("FP32")[1] + tail
    return server.post(body, {"inference-header-content-length": length.encode()})


@feature("lying lengths refused")
@pytest.mark.parametrize(
    "length",
    ["0", "1", "10", "99999", "-4", "abc", "1.5", "", "9" * 30, "0x10", "１２",
     lambda n: str(n - 1), lambda n: str(n + 1), lambda n: str(n + 11), lambda n: str(n + 12)],
    ids=["0", "1", "cuts", "long", "negative", "text", "fraction", "empty", "huge", "hex", "wide",
         "one less", "one more", "eleven more", "all JSON"],
)  # fmt: skip
def test_a_header_length_that_lies_is_refused(server, length):
    refused(server, post_with_length(server, length))


@feature("lying lengths refused")
def test_raw_bytes_without_a_header_length_are_refused(server):
    entry, raw = binary("FP32")
    refused(server, server.post(json.dumps({"inputs": [entry]}).encode() + raw))


@feature("lying lengths refused")
@pytest.mark.parametrize("size", [0, 1, 11, 13, -1, 2**31, 2**40, 2**70, "12", 1.5, None, [12]])
def test_a_size_that_lies_is_refused(server, size):
    entry, raw = binary("FP32", parameters={"binary_data_size": size})
    refused(server, server.ask(entry, raw=raw))


@feature("lying lengths refused")
def test_bytes_that_belong_to_no_input_are_refused(server):
    entry, raw = binary("FP32")
    refused(server, server.ask(entry, raw=raw + b"\0"), 422, "bad_tensor")


@feature("lying lengths refused")
def test_sizes_that_are_right_only_together_are_refused(server):
    first, raw = binary("FP32", parameters={"binary_data_size": 13})
    second, more = binary("INT32", parameters={"binary_data_size": 11})
    refused(server, server.ask(first, second, raw=raw + more), 422, "bad_tensor")


@pytest.mark.ours
@feature("lying lengths refused")
def test_data_and_raw_bytes_of_one_input_are_refused(server):
    entry, raw = binary("FP32", data=SAMPLES["FP32"])
    refused(server, server.ask(entry, raw=raw), 422, "bad_tensor")


@feature("wrong tensors refused")
@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name != "BYTES"])
def test_one_byte_too_few_is_refused(server, datatype):
    raw = pack(datatype, SAMPLES[datatype])[:-1]
    refused(server, server.ask_binary(binary(datatype, raw=raw)), 422, "bad_tensor")


@feature("wrong tensors refused")
@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name != "BYTES"])
def test_one_element_too_many_is_refused(server, datatype):
    raw = pack(datatype, SAMPLES[datatype] + [SAMPLES[datatype][0][:1]])
    refused(server, server.ask_binary(binary(datatype, raw=raw)), 422, "bad_tensor")


TEXTS = [
    ("a length behind the end", pack("BYTES", ["a", "b"]) + struct.pack("<I", 5) + b"c"),
    ("a length of 2**32 - 1", pack("BYTES", ["a", "b"]) + b"\xff\xff\xff\xff"),
    ("half a length", pack("BYTES", ["a", "b"]) + b"\x01\0"),
    ("one text too few", pack("BYTES", ["a", "b"])),
    ("one text too many", pack("BYTES", ["a", "b", "c", "d"])),
    ("no length at all", b"abc"),
    ("a big-endian length", b"".join(struct.pack(">I", 1) + b"a" for _ in range(3))),
    ("nothing", b""),
]


@feature("wrong tensors refused")
@pytest.mark.parametrize("raw", [raw for _, raw in TEXTS], ids=[name for name, _ in TEXTS])
def test_texts_whose_lengths_lie_are_refused(server, raw):
    refused(server, server.ask_binary(binary("BYTES", raw=raw)))


@pytest.mark.ours
@feature("wrong tensors refused")
@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP32", "FP64"])
@pytest.mark.parametrize("what", ["nan", "inf"])
def test_nan_and_infinity_are_refused(server, datatype, what):
    answer = server.ask_binary(binary(datatype, [[float(what), 1.0, 2.0]]))
    refused(server, answer, 422, "bad_tensor")


@pytest.mark.ours
@feature("wrong tensors refused")
def test_text_that_is_not_utf8_is_refused_by_a_model_of_unicode_strings(server):
    answer = server.ask_binary(binary("BYTES", [[b"\xff\xfe"]]))
    refused(server, answer, 422, "bad_tensor")


@feature("every datatype")
@pytest.mark.parametrize("value", ["", "a\0b", "x" * 100_000, "路灯坏了"])
def test_texts_of_every_kind_survive(server, value):
    answer = server.ask_binary(
        binary("BYTES", [[value, "end"]]), outputs=only("BYTES", binary_data=True)
    )
    assert outputs_of(answer)["y_bytes"] == ("BYTES", [1, 2], [value, "end"])


@feature("byte order")
@pytest.mark.parametrize(
    ("datatype", "wrong", "seen"),
    [("INT16", ">h", 256), ("INT32", ">i", 2**24), ("UINT64", ">Q", 2**56)],
)
def test_raw_bytes_are_little_endian_whatever_they_were_meant_to_be(server, datatype, wrong, seen):
    answer = server.ask_binary(
        binary(datatype, [[1]], raw=struct.pack(wrong, 1)), outputs=only(datatype)
    )
    assert outputs_of(answer)[f"y_{datatype.lower()}"][2] == [seen]


@feature("byte order")
def test_any_byte_but_zero_is_true(server):
    answer = server.ask_binary(
        binary("BOOL", [[True] * 4], raw=b"\0\x01\x02\xff"), outputs=only("BOOL", binary_data=True)
    )
    length = int(answer.headers["inference-header-content-length"])
    assert answer.content[length:] == b"\0\x01\x01\x01"


@feature("request id")
def test_the_id_comes_back(server):
    answer = server.ask_binary(binary("FP32"), id="7", outputs=only("FP32", binary_data=True))
    length = int(answer.headers["inference-header-content-length"])
    assert json.loads(answer.content[:length])["id"] == "7"
