"""Server-sent events: parts as they are ready, the whole answer last, errors as ever before that."""

import json

import httpx
import pytest

from conformance.colour_model import COLOURS
from conformance.servers import AS_JSON
from conformance.test_task_api import files, pictures, rows

pytestmark = [pytest.mark.platform, pytest.mark.ours, pytest.mark.door("server-sent events")]
feature = pytest.mark.feature
EVENTS = {"accept": "text/event-stream"}


def events(server, name="", headers=None, **body):
    """Kind, id and data of each event, and the head of the answer."""
    sent = {**EVENTS, **(headers or {})}
    with server.http.stream("POST", server.predict_path(name), headers=sent, **body) as answer:
        text = answer.read().decode()
        assert answer.status_code == 200, text
        assert answer.headers["content-type"] == "text/event-stream"
    found = []
    for block in text.split("\n\n")[:-1]:
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        assert lines.keys() == {"id", "event", "data"}
        found.append((lines["event"], lines["id"], json.loads(lines["data"])))
    return found, answer


@feature("parts")
@pytest.mark.parametrize(("count", "parts"), [(1, 0), (64, 0), (65, 2), (300, 5)])
def test_long_batches_come_in_parts_of_what_the_model_takes_at_once(server, count, parts):
    found, _ = events(server, json=rows(*map(float, range(count))))
    assert [kind for kind, _, _ in found] == ["part"] * parts + ["result"]
    whole = [[2.0 * n] for n in range(count)]
    results = [[r["tensors"]["twice"] for r in data["results"]] for _, _, data in found]
    assert results[-1] == whole
    assert [row for part in results[:-1] for row in part] == (whole if parts else [])
    assert [data["row"] for _, _, data in found[:-1]] == [64 * n for n in range(parts)]


@feature("parts")
def test_the_result_is_what_a_plain_call_answers(server):
    body = rows(*map(float, range(100)))
    found, _ = events(server, json=body)
    plain = server.http.post(server.predict_path(), json=body).json()
    same = ("algorithm", "version", "results")
    assert [found[-1][2][key] for key in same] == [plain[key] for key in same]
    assert found[-1][2].keys() == plain.keys()


@feature("files")
def test_files_come_in_parts(server, colours):
    wanted = [[*COLOURS][n % 3] for n in range(7)]
    found, _ = events(server, colours, files=files(*wanted))
    assert [kind for kind, _, _ in found] == ["part"] * 4 + ["result"]
    named = [[r["label"] for r in data["results"]] for _, _, data in found]
    assert named == [wanted[:2], wanted[2:4], wanted[4:6], wanted[6:], wanted]


@feature("files")
def test_files_in_json_come_in_parts(server, colours):
    found, _ = events(server, colours, json=pictures("red", "blue", "green"))
    assert [kind for kind, _, _ in found] == ["part", "part", "result"]


@feature("request id")
def test_every_event_is_numbered_and_names_the_call(server):
    found, answer = events(server, json=rows(*[1.0] * 130))
    call = answer.headers["x-request-id"]
    assert [number for _, number, _ in found] == [f"{call}/{n}" for n in range(1, 5)]
    assert {data["request_id"] for _, _, data in found} == {call}


@feature("headers")
def test_nobody_on_the_way_is_to_keep_or_hold_back_an_event(server):
    _, answer = events(server, json=rows(1.0))
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-accel-buffering"] == "no"
    assert "server-timing" in answer.headers


@feature("headers")
@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/event-stream", "text/event-stream"), ("Text/Event-Stream", "text/event-stream"),
        ("*/*", "application/json"), ("application/json", "application/json"),
    ],
)  # fmt: skip
def test_only_who_asks_for_events_gets_them(server, accept, kind):
    answer = server.http.post(server.predict_path(), json=rows(1.0), headers={"accept": accept})
    assert answer.headers["content-type"] == kind


@feature("errors on a stream")
@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", {}, 400, "bad_json"), (b'{"inputs":[{"tensors":{"z":[1]}}]}', {}, 422, "bad_tensor"),
        (b"{}", {"authorization": "Bearer x"}, 401, "bad_key"),
        (b"{}", {"x-purpose": "advertising"}, 403, "not_granted"),
        (b"{}", {"x-request-timeout-ms": "never"}, 422, "invalid_input"),
    ],
)  # fmt: skip
def test_what_is_wrong_before_the_first_part_is_a_problem(server, body, headers, status, code):
    sent = {**AS_JSON, **EVENTS, **headers}
    answer = server.http.post(server.predict_path(), content=body, headers=sent)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == answer.json()["request_id"]


@feature("errors on a stream")
def test_an_error_in_the_middle_is_the_last_event(server, colours):
    broken = [*files("red", "blue", "green"), ("file", ("x.png", b"\x89PNG but not for long"))]
    found, answer = events(server, colours, files=broken)
    *parts, (kind, _, problem) = found
    assert ([kind for kind, _, _ in parts], kind) == (["part"], "error")
    assert (problem["code"], problem["status"]) == ("bad_media", 422)
    assert problem["request_id"] == answer.headers["x-request-id"]


@feature("deadlines")
def test_a_deadline_ends_it_before_or_between_parts(server):
    body = rows(*[1.0] * 4096)
    headers = {**EVENTS, "x-request-timeout-ms": "2"}
    answer = server.http.post(server.predict_path(), json=body, headers=headers)
    last = answer.text if answer.status_code != 200 else answer.text.rpartition("data: ")[2]
    assert json.loads(last)["code"] == "deadline_exceeded"


@feature("cancellation")
def test_who_hangs_up_leaves_the_server_answering(server):
    for _ in range(5):
        with server.http.stream(
            "POST", server.predict_path(), json=rows(*[1.0] * 4096), headers=EVENTS
        ) as answer:
            assert answer.status_code == 200
            next(answer.iter_lines())
    assert server.http.post(server.predict_path(), json=rows(1.0)).status_code == 200


@feature("connections")
def test_a_connection_goes_on_after_the_last_event(server):
    with httpx.Client(
        base_url=server.url, headers=server.headers, trust_env=False,
        limits=httpx.Limits(max_connections=1),
    ) as http:  # fmt: skip
        for _ in range(3):
            answer = http.post(server.predict_path(), json=rows(*[1.0] * 65), headers=EVENTS)
            assert answer.text.count("event: ") == 3
