"""The HTTP under the protocol: packed bodies, connections, lengths that lie, headers, keys."""

import gzip
import json
import socket
import zlib

import httpx
import pytest

from conformance.bodies import SAMPLES, binary, flat, only, outputs_of, tensor
from conformance.servers import refused

pytestmark = [pytest.mark.platform, pytest.mark.door("REST, JSON")]
feature = pytest.mark.feature
PLAIN = json.dumps({"inputs": [tensor("FP32")], "outputs": only("FP32")}).encode()
PACKERS = {"gzip": gzip.compress, "deflate": zlib.compress}


def echoed(answer):
    assert answer.status_code == 200, answer.text
    return outputs_of(answer)["y_fp32"][2] == flat(SAMPLES["FP32"])


@feature("packed bodies")
@pytest.mark.parametrize("coding", PACKERS)
def test_a_packed_body_is_unpacked(server, coding):
    assert echoed(server.post(PACKERS[coding](PLAIN), {"content-encoding": coding}))


@feature("packed bodies")
@pytest.mark.door("REST, binary")
@pytest.mark.parametrize("coding", PACKERS)
def test_a_packed_body_with_raw_bytes_is_unpacked(server, coding):
    """`Inference-Header-Content-Length` counts unpacked bytes, as tritonclient sends it."""
    entry, raw = binary("FP32")
    head = json.dumps({"inputs": [entry], "outputs": only("FP32", binary_data=True)}).encode()
    headers = {"content-encoding": coding, "inference-header-content-length": str(len(head))}
    assert echoed(server.post(PACKERS[coding](head + raw), headers))


@feature("packed bodies")
def test_a_body_that_is_said_to_be_plain_is_plain(server):
    assert echoed(server.post(PLAIN, {"content-encoding": "identity"}))


@feature("packed bodies")
@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "colour"])
def test_a_coding_that_nobody_speaks_is_refused(server, coding):
    answer = server.post(b"whatever", {"content-encoding": coding})
    refused(server, answer, 415, "bad_encoding")


@feature("packed bodies")
@pytest.mark.parametrize("coding", PACKERS)
@pytest.mark.parametrize("harm", ["plain", "torn", "tail", "flipped", "empty"])
def test_a_packed_body_that_is_broken_is_refused(server, coding, harm):
    packed = bytearray(PACKERS[coding](PLAIN))
    if harm == "flipped":
        packed[-1] ^= 1  # of the checksum
    body = {
        "plain": PLAIN, "torn": packed[:-9], "tail": packed + b"x", "empty": b"",
    }.get(harm, packed)  # fmt: skip
    refused(server, server.post(bytes(body), {"content-encoding": coding}), 400, "bad_json")


@pytest.mark.ours
@feature("packed bodies")
@pytest.mark.parametrize("coding", PACKERS)
def test_a_packed_body_that_grows_over_the_limit_is_refused(server, coding):
    bomb = PACKERS[coding](b" " * (64 << 20))
    assert len(bomb) < 1 << 18
    refused(server, server.post(bomb, {"content-encoding": coding}), 413, "too_large")


@feature("connections")
def test_a_body_in_chunks_is_put_together(server):
    assert echoed(server.post(iter([PLAIN[:7], b"", PLAIN[7:90], PLAIN[90:]])))


@feature("connections")
def test_a_body_in_chunks_of_one_byte_is_put_together(server):
    assert echoed(server.post(PLAIN[i : i + 1] for i in range(len(PLAIN))))


def conversation(server, *pieces, closes=True):
    """Raw bytes to the server and all that comes back until it closes."""
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port), timeout=20) as connection:
        for piece in pieces:
            connection.sendall(piece)
        if closes:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(1 << 16):
            answer += data
    return answer


def raw_request(server, body=PLAIN, *, last=True, **headers):
    """A request as bytes, with a right Content-Length unless another is given."""
    fields = {"host": "x", "content-length": len(body), **server.headers}
    fields |= {"connection": "close"} if last else {}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"POST {server.path} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items() if v != "")]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def statuses(answer):
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


@feature("connections")
def test_one_connection_carries_many_calls(server):
    pieces = [raw_request(server, last=number == 9) for number in range(10)]
    assert statuses(conversation(server, *pieces, closes=False)) == [200] * 10


@feature("connections")
def test_calls_sent_before_their_answers_are_answered_in_order(server):
    bodies = [
        json.dumps({"id": str(n), "inputs": [tensor("FP32")], "outputs": only("FP32")}).encode()
        for n in range(5)
    ]
    sent = b"".join(raw_request(server, body, last=body is bodies[-1]) for body in bodies)
    answer = conversation(server, sent, closes=False)
    assert statuses(answer) == [200] * 5
    places = [answer.index(f'"id":"{n}"'.encode()) for n in range(5)]
    assert places == sorted(places)


@feature("connections")
def test_a_wrong_call_does_not_end_the_connection(server):
    sent = raw_request(server, b"{", last=False) + raw_request(server)
    first, second = statuses(conversation(server, sent, closes=False))
    assert (400 <= first < 500, second) == (True, 200)


@feature("connections")
def test_a_body_in_small_pieces_is_waited_for(server):
    whole = raw_request(server)
    pieces = [whole[i : i + 50] for i in range(0, len(whole), 50)]
    assert statuses(conversation(server, *pieces, closes=False)) == [200]


@feature("connections")
def test_headers_may_be_in_any_case(server):
    sent = raw_request(server).replace(b"content-length", b"CONTENT-Length")
    assert statuses(conversation(server, sent, closes=False)) == [200]


@feature("connections")
def test_a_client_that_waits_for_permission_gets_it(server):
    sent = raw_request(server, expect="100-continue")
    assert statuses(conversation(server, sent, closes=False))[-1] == 200


@feature("lying lengths refused")
@pytest.mark.parametrize(
    "headers",
    [{"content_length": "-5"}, {"content_length": "abc"}, {"content_length": "9" * 40},
     {"content_length": "1.5"}, {"transfer_encoding": "chunked"},
     {"content_length": "", "transfer_encoding": "chunked"},
     {"content_length": "", "transfer_encoding": "gzip"}],
    ids=["negative", "text", "huge", "fraction", "two lengths", "no chunk", "odd transfer"],
)  # fmt: skip
def test_a_content_length_that_lies_is_refused_or_hung_up_on(server, headers):
    answer = statuses(conversation(server, raw_request(server, **headers)))
    assert all(400 <= status < 500 for status in answer), answer
    assert echoed(server.post(PLAIN)), "the server lives"


@feature("lying lengths refused")
def test_a_body_that_ends_early_is_never_answered_as_if_it_were_whole(server):
    answer = statuses(conversation(server, raw_request(server, content_length=len(PLAIN) + 5)))
    assert 200 not in answer
    assert echoed(server.post(PLAIN))


@feature("lying lengths refused")
def test_bytes_behind_a_body_are_not_a_part_of_it(server):
    answer = conversation(server, raw_request(server, content_length=len(PLAIN) - 5))
    assert 200 not in statuses(answer)


@feature("headers")
@pytest.mark.parametrize("kind", ["application/json", "application/octet-stream", "text/plain", ""])
def test_the_content_type_does_not_matter(server, kind):
    assert echoed(server.post(PLAIN, {"content-type": kind}))


@feature("headers")
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_another_method_is_refused(server, method):
    answer = server.http.request(method, server.path)
    assert 400 <= answer.status_code < 500


@pytest.mark.ours
@feature("headers")
def test_every_answer_has_an_id_and_tells_where_its_time_went(server):
    answer = server.post(PLAIN)
    assert len(answer.headers["x-request-id"]) == 32
    assert {"queue", "way", "wait", "work", "total"} <= {
        part.split(";")[0].strip() for part in answer.headers["server-timing"].split(",")
    }


@pytest.mark.ours
@feature("deadlines")
@pytest.mark.parametrize("value", ["0", "-1", "abc", "1.5", "9" * 20])
def test_a_deadline_that_is_no_number_of_milliseconds_is_refused(server, value):
    answer = server.post(PLAIN, {"x-request-timeout-ms": value})
    refused(server, answer, 422, "invalid_input")


@pytest.mark.ours
@feature("deadlines")
def test_a_call_within_its_deadline_is_answered(server):
    assert echoed(server.post(PLAIN, {"x-request-timeout-ms": "20000"}))


@pytest.mark.ours
@feature("deadlines")
def test_a_call_that_cannot_keep_its_deadline_gets_504_in_time(server):
    """The work is a large echo; one millisecond is over before it comes back."""
    entry, raw = binary("FP64", [[1.0] * 1_000_000])
    head = json.dumps({"inputs": [entry], "outputs": only("FP64", binary_data=True)}).encode()
    headers = {"inference-header-content-length": str(len(head)), "x-request-timeout-ms": "1"}
    answer = server.post(head + raw, headers)
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")


@pytest.mark.ours
@feature("keys and purposes")
@pytest.mark.parametrize(
    ("authorization", "code"),
    [(None, "missing_key"), ("Basic abc", "missing_key"), ("Bearer wrong", "bad_key")],
)
def test_a_call_without_a_good_key_is_refused(server, authorization, code):
    headers = {"authorization": authorization} if authorization else {}
    answer = httpx.post(server.url + server.path, content=PLAIN, headers=headers, trust_env=False)
    refused(server, answer, 401, code)
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.ours
@feature("keys and purposes")
def test_a_purpose_that_the_key_does_not_have_is_refused(server):
    refused(server, server.post(PLAIN, {"x-purpose": "advertising"}), 403, "not_granted")
