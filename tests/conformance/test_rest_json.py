"""Open Inference Protocol v2 over HTTP with tensors in JSON."""

import json

import pytest

from conformance.bodies import DATATYPES, SAMPLES, flat, only, outputs_of, tensor
from conformance.servers import refused

pytestmark = [pytest.mark.platform, pytest.mark.door("REST, JSON")]
feature = pytest.mark.feature


@feature("every datatype")
@pytest.mark.parametrize("datatype", DATATYPES)
def test_a_tensor_comes_back_as_it_went(server, datatype):
    answer = server.ask(tensor(datatype), outputs=only(datatype))
    assert answer.status_code == 200, answer.text
    assert outputs_of(answer) == {
        f"y_{datatype.lower()}": (datatype, [1, 3], flat(SAMPLES[datatype]))
    }


@feature("every datatype")
def test_many_tensors_go_and_come_together(server):
    asked = [name for name in DATATYPES if name != "BF16"]
    answer = server.ask(*(tensor(name) for name in asked), outputs=only(*asked))
    found = outputs_of(answer)
    assert {n: v for n, (_, _, v) in found.items()} == {
        f"y_{name.lower()}": flat(SAMPLES[name]) for name in asked
    }


@feature("nested and flat data")
@pytest.mark.parametrize("datatype", ["BOOL", "INT64", "UINT64", "FP16", "FP32", "BYTES"])
def test_nested_data_and_flat_data_are_the_same(server, datatype):
    rows = SAMPLES[datatype] * 2
    answers = [
        outputs_of(server.ask(tensor(datatype, rows, data=data), outputs=only(datatype)))
        for data in (rows, flat(rows))
    ]
    assert answers[0] == answers[1]
    assert answers[0][f"y_{datatype.lower()}"] == (datatype, [2, 3], flat(rows))


@feature("shapes")
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 2), (100, 1), (64, 64)])
def test_every_size_of_batch_and_row_is_served(server, shape):
    rows = [[float(row + column) for column in range(shape[1])] for row in range(shape[0])]
    found = outputs_of(server.ask(tensor("FP32", rows), outputs=[{"name": "twice"}]))
    assert found["twice"] == ("FP32", list(shape), [2 * value for value in flat(rows)])


@feature("shapes")
def test_a_row_may_be_empty(server):
    found = outputs_of(server.ask(tensor("FP32", [[]]), outputs=only("FP32")))
    assert found["y_fp32"] == ("FP32", [1, 0], [])


@feature("shapes refused")
@pytest.mark.parametrize(
    "shape",
    [[-1, 3], [3, -1], [1, 4], [1, 2], [2**40, 2**40], [2**63, 3], [0, 2**62], [0, 2**70],
     [2**31, 2**31, 2**31, 0], [1] * 70 + [3], [1, 3.5], ["1", 3], [None, 3], [[1, 3]]],
)  # fmt: skip
def test_a_shape_that_cannot_be_is_refused(server, shape):
    refused(server, server.ask(tensor("FP32", shape=shape)))


@pytest.mark.ours
@feature("shapes refused")
@pytest.mark.parametrize("shape", [[], [3], [1, 1, 3], [0, 3]])
def test_a_shape_that_the_model_does_not_take_is_refused(server, shape):
    data = [] if 0 in shape else [1.0] if not shape else [1.0] * 3
    refused(server, server.ask(tensor("FP32", data=data, shape=shape)), 422, "bad_tensor")


@feature("outputs asked for")
@pytest.mark.parametrize("names", [["y_fp32"], ["twice"], ["y_fp32", "twice"]])
def test_only_the_outputs_that_are_asked_for_come(server, names):
    answer = server.ask(tensor("FP32"), outputs=[{"name": name} for name in names])
    assert set(outputs_of(answer)) == set(names)


@feature("outputs asked for")
@pytest.mark.parametrize("more", [{}, {"outputs": []}], ids=["left out", "empty"])
def test_without_a_wish_all_outputs_come(server, more):
    assert {"y_fp32", "twice"} <= set(outputs_of(server.ask(tensor("FP32"), **more)))


@feature("outputs asked for")
def test_an_unknown_output_is_refused(server):
    answer = server.ask(tensor("FP32"), outputs=[{"name": "colour"}])
    refused(server, answer, 422, "bad_tensor")


@feature("request id")
@pytest.mark.parametrize("name", ["7", "a b", "桥-1", "x" * 200])
def test_the_id_comes_back(server, name):
    assert server.ask(tensor("FP32"), id=name, outputs=only("FP32")).json()["id"] == name


@feature("request id")
def test_the_id_must_be_a_string(server):
    refused(server, server.ask(tensor("FP32"), id=7), 400, "bad_json")


@feature("parameters")
@pytest.mark.parametrize(
    "value", [1, "text", True, 1.5], ids=["number", "text", "flag", "fraction"]
)
def test_parameters_that_mean_nothing_here_are_ignored(server, value):
    answer = server.ask(
        tensor("FP32", parameters={"colour": value}),
        outputs=only("FP32", colour=value),
        parameters={"colour": value},
    )
    assert outputs_of(answer)["y_fp32"][2] == flat(SAMPLES["FP32"])


@pytest.mark.ours
@feature("parameters")
@pytest.mark.parametrize("name", ["classification", "shared_memory_region"])
def test_an_extension_that_is_not_served_is_refused_and_not_ignored(server, name):
    value = 3 if name == "classification" else "region"
    answer = server.ask(tensor("FP32"), outputs=only("FP32", **{name: value}))
    refused(server, answer, 422, "bad_tensor")


@feature("parameters")
def test_unknown_fields_are_ignored(server):
    answer = server.ask(tensor("FP32", colour=1), outputs=only("FP32"), colour=1)
    assert answer.status_code == 200


@feature("model named in the answer")
def test_the_answer_names_the_model_and_its_version(server):
    answer = server.ask(tensor("FP32"), outputs=only("FP32")).json()
    assert answer["model_name"] == server.model
    if server.version:
        assert answer["model_version"] == server.version


WRONG = [
    ("one value too few", tensor("FP32", data=[1.0, 2.0])),
    ("one value too many", tensor("FP32", data=[1.0] * 4)),
    ("no value", tensor("FP32", data=[])),
    ("ragged rows", tensor("FP32", shape=[2, 2], data=[[1.0, 2.0], [3.0]])),
    ("a row beside a value", tensor("FP32", shape=[1, 3], data=[1.0, [2.0, 3.0]])),
    ("text for numbers", tensor("FP32", data=["1", "2", "3"])),
    ("null for a number", tensor("FP32", data=[None, 1.0, 2.0])),
    ("an object for numbers", tensor("FP32", data={"0": 1})),
    ("text for the list", tensor("FP32", data="1,2,3")),
    ("true for a number", tensor("FP32", data=[True, False, True])),
    ("a fraction for an integer", tensor("INT32", data=[1.5, 2, 3])),
    ("text for an integer", tensor("INT32", data=["1", 2, 3])),
    ("a number for a flag", tensor("BOOL", data=[2, 0, 1])),
    ("text for a flag", tensor("BOOL", data=["true", "false", "true"])),
    ("a number for text", tensor("BYTES", data=[1, 2, 3])),
    ("null for text", tensor("BYTES", data=[None, "a", "b"])),
    ("an object for text", tensor("BYTES", data=[{}, "a", "b"])),
    ("integers beyond 64 bits", tensor("INT64", data=[2**64, 0, 0])),
    ("nested integers beyond 64 bits", tensor("INT64", data=[[2**64, 0, 0]])),
    ("nested integers of 30 digits", tensor("UINT64", data=[[10**30, 0, 0]])),
    ("an unknown datatype", tensor("FP32", datatype="FP33")),
    ("an empty datatype", tensor("FP32", datatype="")),
    ("a datatype in small letters", tensor("FP32", datatype="fp32")),
    ("no datatype", tensor("FP32", datatype=None)),
    ("a number for the datatype", tensor("FP32", datatype=5)),
    ("no name", tensor("FP32", name=None)),
    ("a number for the name", tensor("FP32", name=5)),
    ("no shape", tensor("FP32", shape=None)),
    ("a number for the shape", tensor("FP32", shape=3)),
    ("no data", tensor("FP32", data=None)),
]


@feature("wrong tensors refused")
@pytest.mark.parametrize("entry", [entry for _, entry in WRONG], ids=[name for name, _ in WRONG])
def test_a_tensor_that_is_wrong_is_refused(server, entry):
    refused(server, server.ask(entry))


@feature("wrong tensors refused")
@pytest.mark.parametrize(
    ("datatype", "value"),
    [("INT8", 128), ("INT8", -129), ("INT16", 2**15), ("INT32", 2**31), ("INT64", 2**63),
     ("UINT8", 256), ("UINT8", -1), ("UINT16", 2**16), ("UINT32", 2**32), ("UINT64", -1)],
)  # fmt: skip
def test_an_integer_beyond_its_datatype_is_refused(server, datatype, value):
    answer = server.ask(tensor(datatype, [[value]]))
    refused(server, answer, 422, "bad_tensor")


@pytest.mark.ours
@feature("wrong tensors refused")
@pytest.mark.parametrize(("datatype", "value"), [("FP16", 1e6), ("BF16", 1e39), ("FP32", 1e39)])
def test_a_number_that_becomes_infinity_is_refused(server, datatype, value):
    refused(server, server.ask(tensor(datatype, [[value]])), 422, "bad_tensor")


@pytest.mark.ours
@feature("wrong tensors refused")
def test_an_input_that_the_model_does_not_have_is_refused(server):
    refused(server, server.ask(tensor("FP32", name="x_colour")), 422, "bad_tensor")


@pytest.mark.ours
@feature("wrong tensors refused")
def test_a_datatype_that_the_input_does_not_have_is_refused(server):
    refused(server, server.ask(tensor("FP32", name="x_fp64")), 422, "bad_tensor")


@feature("errors have the field `error`")
@pytest.mark.parametrize("harm", ["JSON", "inputs", "datatype", "values", "output", "model"])
def test_an_error_has_its_text_where_the_protocol_puts_it(server, harm):
    if harm == "JSON":
        answer = server.post(b"{")
    elif harm == "inputs":
        answer = server.post(b"{}")
    elif harm == "datatype":
        answer = server.ask(tensor("FP32", datatype="FP33"))
    elif harm == "values":
        answer = server.ask(tensor("FP32", data=[1.0]))
    elif harm == "output":
        answer = server.ask(tensor("FP32"), outputs=[{"name": "colour"}])
    else:
        answer = server.http.post("/v2/models/no-such-thing/infer", json={"inputs": []})
    assert isinstance(answer.json()["error"], str)
    assert answer.json()["error"]


@feature("wrong tensors refused")
def test_the_same_input_twice_is_refused(server):
    refused(server, server.ask(tensor("FP32"), tensor("FP32")), 422, "bad_tensor")


GOOD = json.dumps({"inputs": [tensor("FP32")]}).encode()
BODIES = [
    ("empty", b""),
    ("spaces", b"  \n "),
    ("a torn object", GOOD[:-2]),
    ("something behind the object", GOOD + b"}"),
    ("a second object", GOOD + GOOD),
    ("a list", b"[" + GOOD + b"]"),
    ("a string", b'"x"'),
    ("null", b"null"),
    ("no inputs", b"{}"),
    ("inputs are null", b'{"inputs":null}'),
    ("inputs are an object", b'{"inputs":{}}'),
    ("inputs are empty", b'{"inputs":[]}'),
    ("inputs hold null", b'{"inputs":[null]}'),
    ("single quotes", GOOD.replace(b'"', b"'")),
    ("NaN", GOOD.replace(b"-1.5", b"NaN")),
    ("Infinity", GOOD.replace(b"-1.5", b"Infinity")),
    ("1e999", GOOD.replace(b"-1.5", b"1e999")),
    ("a number of 20,000 digits", GOOD.replace(b"-1.5", b"9" * 20_000)),
    ("a leading zero", GOOD.replace(b"-1.5", b"01.5")),
    ("a comment", GOOD.replace(b"-1.5", b"/* */ 1.5")),
    ("a comma too many", GOOD.replace(b"]", b",]", 1)),
    ("bytes that are not UTF-8", GOOD.replace(b"x_fp32", b"x_\xff\xfe")),
    ("half a surrogate pair", GOOD.replace(b"x_fp32", b"x_\\ud800")),
    ("a zero byte", GOOD.replace(b"x_fp32", b"x_\0")),
    ("UTF-16", GOOD.decode().encode("utf-16")),
    ("deep nesting", b'{"inputs":' + b"[" * 50_000),
    ("deep nesting in data", GOOD.replace(b"[[", b"[" * 5000).replace(b"]]", b"]" * 5000)),
]


@feature("broken JSON refused")
@pytest.mark.parametrize("body", [body for _, body in BODIES], ids=[name for name, _ in BODIES])
def test_a_body_that_is_not_the_protocols_json_is_refused(server, body):
    refused(server, server.post(body))
