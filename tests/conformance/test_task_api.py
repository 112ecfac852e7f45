"""The task API: typed items in JSON, files in a form or bare; typed results with who answered."""

import base64
import gzip
import json

import pytest

from conformance.bodies import DATATYPES, SAMPLES
from conformance.colour_model import COLOURS, picture
from conformance.servers import AS_JSON

pytestmark = [pytest.mark.platform, pytest.mark.ours]
feature = pytest.mark.feature
JSON, FORM = (pytest.mark.door(f"task API, {name}") for name in ("JSON", "form"))


def rows(*values, name="x_fp32"):
    return {"inputs": [{"tensors": {name: [value]}} for value in values]}


def pictures(*colours):
    images = [base64.b64encode(picture(colour)).decode() for colour in colours]
    return {"inputs": [{"image": image} for image in images]}


def files(*colours, kind="PNG"):
    return [("file", (f"{n}.{kind}", picture(c, kind))) for n, c in enumerate(colours)]


def ask(server, body, headers=None, name=""):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return server.http.post(
        server.predict_path(name), content=raw, headers={**AS_JSON, **(headers or {})}
    )


def refused(answer, status, code):
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == answer.json()["request_id"]


def labels(answer):
    assert answer.status_code == 200, answer.text
    return [result["label"] for result in answer.json()["results"]]


@JSON
@feature("every datatype")
@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_goes_through_items(server, datatype):
    name, (row,) = datatype.lower(), SAMPLES[datatype]
    answer = ask(server, {"inputs": [{"tensors": {f"x_{name}": row}}]})
    assert answer.status_code == 200, answer.text
    (result,) = answer.json()["results"]
    assert result["tensors"][f"y_{name}"] == row


@JSON
@feature("order")
@pytest.mark.parametrize("count", [1, 64, 65, 1000])
def test_results_are_in_the_order_of_the_items(server, count):
    answer = ask(server, rows(*map(float, range(count))))
    assert [r["tensors"]["twice"] for r in answer.json()["results"]] == [
        [2.0 * n] for n in range(count)
    ]


@JSON
@feature("request id")
def test_the_answer_says_who_answered_and_as_which_call(server):
    answer = ask(server, rows(1.0))
    told = answer.json()
    assert (told["algorithm"], str(told["version"])) == (server.model, server.version)
    assert told["request_id"] == answer.headers["x-request-id"]


@JSON
@feature("versions and aliases")
def test_a_version_can_be_named(server):
    path = server.predict_path(f"{server.model}@{server.version}")
    assert server.http.post(path, json=rows(1.0)).status_code == 200


@JSON
@feature("unknown models and versions")
@pytest.mark.parametrize("target", ["99", "nobody", "no-such-thing"])
def test_what_is_not_there_is_not_found(server, target):
    name = target if "-" in target else f"{server.model}@{target}"
    answer = ask(server, rows(1.0), name=name)
    refused(answer, 404, "algorithm_not_found" if "-" in target else "version_not_found")


WRONG = {
    "an empty body": b"", "no JSON": b"{", "a list": b"[]", "no inputs": b"{}",
    "empty inputs": b'{"inputs":[]}', "inputs is text": b'{"inputs":"x"}',
    "an unknown field": b'{"inputs":[{"tensors":{}}],"colour":1}', "null": b"null",
    "an item of text": b'{"inputs":["x"]}', "an unknown field of an item": b'{"inputs":[{"x":1}]}',
    "bad UTF-8": b'{"inputs":[{"tensors":{"\xff":[1]}}]}', "NaN": b'{"inputs":[{"tensors":{"x":NaN}}]}',
    "a lone surrogate": b'{"inputs":[{"tensors":{"\\ud800":[1]}}]}', "deep": b"[" * 100_000,
}  # fmt: skip


@JSON
@feature("broken JSON refused")
@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG)
def test_broken_bodies_are_refused(server, body):
    refused(ask(server, body), 400, "bad_json")


ITEMS = {
    "an unknown tensor": {"z": [1.0]}, "no tensor": {}, "text for a number": {"x_fp32": ["a"]},
    "a fraction for an integer": {"x_int8": [1.5]}, "beyond the datatype": {"x_int8": [300]},
    "below zero": {"x_uint8": [-1]}, "too large a float": {"x_fp32": [1e39]},
    "a number alone": {"x_fp32": 1.0}, "too deep": {"x_fp32": [[1.0]]}, "null": {"x_fp32": None},
    "ragged": {"x_fp32": [[1.0], [1.0, 2.0]]}, "an object": {"x_fp32": {"a": 1}},
}  # fmt: skip


@JSON
@feature("wrong items refused")
@pytest.mark.parametrize("tensors", ITEMS.values(), ids=ITEMS)
def test_wrong_items_are_refused(server, tensors):
    refused(ask(server, {"inputs": [{"tensors": tensors}]}), 422, "bad_tensor")


@JSON
@feature("wrong items refused")
def test_items_that_differ_in_their_tensors_are_refused(server):
    refused(ask(server, {"inputs": [*rows(1.0)["inputs"], *rows(1, name="x_int8")["inputs"]]}),
            422, "bad_tensor")  # fmt: skip


@JSON
@feature("wrong items refused")
def test_too_many_items_are_refused(server):
    refused(ask(server, rows(*[1.0] * 4097)), 413, "too_large")


@JSON
@feature("files")
def test_a_file_is_base64_in_json(server, colours):
    assert labels(ask(server, pictures("blue", "red"), name=colours)) == ["blue", "red"]


@JSON
@feature("files refused")
@pytest.mark.parametrize("image", ["", "####", "aGVsbG8="])
def test_what_is_no_file_is_refused(server, colours, image):
    answer = ask(server, {"inputs": [{"image": image}]}, name=colours)
    assert answer.status_code in (400, 422)
    refused(answer, answer.status_code, "bad_json" if image == "####" else "bad_media")


@JSON
@feature("packed bodies")
def test_a_packed_body_is_unpacked(server):
    packed = gzip.compress(json.dumps(rows(1.0)).encode())
    assert ask(server, packed, {"content-encoding": "gzip"}).status_code == 200
    refused(ask(server, packed[:-9], {"content-encoding": "gzip"}), 400, "bad_json")


@JSON
@feature("keys and purposes")
@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"authorization": ""}, 401, "missing_key"), ({"authorization": "Bearer x"}, 401, "bad_key"),
        ({"x-purpose": "advertising"}, 403, "not_granted"),
    ],
)  # fmt: skip
def test_keys_and_purposes_are_looked_at(server, headers, status, code):
    refused(ask(server, rows(1.0), headers), status, code)


@JSON
@feature("deadlines")
@pytest.mark.parametrize(("sent", "status"), [("60000", 200), ("0", 422), ("soon", 422)])
def test_a_deadline_is_taken_or_refused(server, sent, status):
    assert ask(server, rows(1.0), {"x-request-timeout-ms": sent}).status_code == status


@JSON
@feature("headers")
@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", ""])
def test_json_may_be_named_or_not(server, kind):
    assert ask(server, rows(1.0), {"content-type": kind}).status_code == 200


@JSON
@feature("headers")
def test_another_content_type_is_refused(server):
    refused(ask(server, rows(1.0), {"content-type": "text/csv"}), 422, "bad_media")


@FORM
@feature("files")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_a_form_carries_files(server, colours, kind):
    sent = files("green", "blue", "red", kind=kind)
    answer = server.http.post(server.predict_path(colours), files=sent)
    assert labels(answer) == ["green", "blue", "red"]


@FORM
@feature("files")
@pytest.mark.parametrize("field", ["file", "image", "图片", ""])
def test_a_field_may_have_any_name(server, colours, field):
    sent = [(field, ("a.png", picture("red")))]
    assert labels(server.http.post(server.predict_path(colours), files=sent)) == ["red"]


@FORM
@feature("files")
@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream"])
def test_a_file_may_be_the_whole_body(server, colours, kind):
    answer = ask(server, picture("green"), {"content-type": kind}, colours)
    assert labels(answer) == ["green"]


@FORM
@feature("order")
@pytest.mark.parametrize("count", [1, 64])
def test_results_are_in_the_order_of_the_files(server, colours, count):
    wanted = [[*COLOURS][n % 3] for n in range(count)]
    answer = server.http.post(server.predict_path(colours), files=files(*wanted))
    assert labels(answer) == wanted


BOUNDARY = {"content-type": "multipart/form-data; boundary=x"}
PART = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
FORMS = {
    "no boundary": (PART, {"content-type": "multipart/form-data"}, 400, "bad_json"),
    "no file": (b"--x--\r\n", BOUNDARY, 422, "bad_media"),
    "an empty body": (b"", BOUNDARY, 422, "bad_media"),
    "an empty file": (PART + b"\r\n--x--\r\n", BOUNDARY, 422, "bad_media"),
    "no picture": (PART + b"hello\r\n--x--\r\n", BOUNDARY, 422, "bad_media"),
    "half a picture": (PART + picture("red")[:40] + b"\r\n--x--\r\n", BOUNDARY, 422, "bad_media"),
    "another boundary": (PART.replace(b"--x", b"--y"), BOUNDARY, 400, "bad_json"),
    "broken headers": (b"--x\r\nno colon\r\n\r\nhello\r\n--x--\r\n", BOUNDARY, 400, "bad_json"),
    "too many files": ((PART + b"a\r\n") * 65 + b"--x--\r\n", BOUNDARY, 413, "too_large"),
}  # fmt: skip


@FORM
@feature("files refused")
@pytest.mark.parametrize(("body", "headers", "status", "code"), FORMS.values(), ids=FORMS)
def test_broken_forms_are_refused(server, colours, body, headers, status, code):
    refused(ask(server, body, headers, colours), status, code)


@FORM
@feature("files refused")
def test_a_file_for_an_algorithm_that_takes_none_is_refused(server):
    answer = server.http.post(server.predict_path(), files=files("red"))
    refused(answer, 400, "bad_json")


@FORM
@feature("keys and purposes")
def test_a_form_without_a_key_is_refused(server, colours):
    answer = server.http.post(
        server.predict_path(colours), files=files("red"), headers={"authorization": ""}
    )
    refused(answer, 401, "missing_key")


@FORM
@feature("packed bodies")
def test_a_packed_file_is_unpacked(server, colours):
    headers = {"content-type": "image/png", "content-encoding": "gzip"}
    answer = ask(server, gzip.compress(picture("blue")), headers, colours)
    assert labels(answer) == ["blue"]
