"""Answers in parts over a real port and a real lane: early, bounded, ended with their caller."""

import contextlib
import json
import socket
import threading
import time

import numpy as np
import pytest
import yaml
from support import doubler, wait_for
from support_door import APP
from support_site import Site, answers, ask

from citybrain.models.predictor import Predictor
from citybrain.serving.begun import MOST
from citybrain.serving.desk import Desk
from citybrain.serving.lane import LaneServer
from citybrain.serving.lane_doors import UnixDoor
from citybrain.serving.wire import DROP, NEXT, Served

PATH = "/v1/algorithms/flow/predict"
BATCH, WIDTH = 4, 3


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("double")
    doubler(folder / "double.onnx")
    tensors = {name: [{"name": name, "dtype": "FP32", "shape": [-1, WIDTH]}] for name in "xy"}
    manifest = {
        "name": "flow", "title": {"zh": "倍", "en": "Double"}, "task": "tensor", "runtime": "onnx",
        "weights": "double.onnx", "domain": "traffic", "owner": "traffic", "licence": "MIT",
        "max_batch": BATCH, "options": {"inputs": tensors["x"], "outputs": tensors["y"]},
    }  # fmt: skip
    (folder / "algorithm.yaml").write_text(yaml.safe_dump(manifest, allow_unicode=True))
    return Predictor.open(folder)


class Replica:
    """What a replica is without Ray: a desk behind a lane, one frame at a time, as slow as told."""

    def __init__(self, folder, predictor):
        self.desk = Desk(predictor, 2)
        self.pause = 0.0
        self.dressed = lambda served: served
        self.frames = []
        self._lock = threading.Lock()
        self.lane = LaneServer(UnixDoor(folder, APP), self.answer)
        self.lane.announce()

    def answer(self, calls, errand):
        with self._lock:
            self.frames.append([call.codec for call in calls])
            time.sleep(self.pause)
            return self.dressed(Served(self.desk.answer(calls, errand), 0.0, self.pause))

    def asked(self, codec):
        return sum(codec in frame for frame in self.frames)

    def die(self):
        """As a kill does: every connection breaks, nothing is said."""
        self.lane.door.path.unlink(missing_ok=True)
        for visit in self.lane._all():
            with contextlib.suppress(OSError):
                visit._connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def site(tmp_path, predictor):
    with Site(tmp_path).open() as found:
        found.replica = Replica(found.lane_folder, predictor)
        wait_for(lambda: found.lanes.count(APP))
        yield found


def body(rows, scale=1.0):
    items = [{"tensors": {"x": [n * scale] * WIDTH}} for n in range(rows)]
    return json.dumps({"inputs": items}).encode()


def request(site, rows=10, **more):
    headers = {"accept": "text/event-stream", "content_type": "application/json"}
    return site.request(body(rows), PATH, **(headers | more))


class Events:
    """The events of one answer, as they come."""

    def __init__(self, connection):
        self._reader = connection.makefile("rb")
        self.status = int(self._reader.readline().split()[1])
        self.headers = {}
        while line := self._reader.readline().strip():
            name, _, value = line.decode().partition(": ")
            self.headers[name] = value

    def close(self):
        """The connection ends with it."""
        self._reader.close()

    def __iter__(self):
        text = b""
        while size := int(self._reader.readline(), 16):
            text += self._reader.read(size)
            self._reader.read(2)
            while b"\n\n" in text:
                event, _, text = text.partition(b"\n\n")
                found = dict(line.split(": ", 1) for line in event.decode().splitlines())
                yield found["event"], found["id"], json.loads(found["data"])
        assert text == b""


@contextlib.contextmanager
def events(site, *words, **more):
    with site.connect() as connection:
        connection.sendall(request(site, *words, **more))
        found = Events(connection)
        try:
            yield found
        finally:
            found.close()


def rows(data):
    return [item["tensors"]["y"][0] for item in data["results"]]


def test_each_part_is_an_event_and_the_result_is_the_plain_answer(site):
    with events(site) as found:
        got = list(found)
    assert found.status == 200
    assert found.headers["content-type"] == "text/event-stream"
    assert "server-timing" in found.headers
    call = found.headers["x-request-id"]
    assert [event[:2] for event in got] == [
        ("part", f"{call}/1"), ("part", f"{call}/2"), ("part", f"{call}/3"), ("result", f"{call}/4")
    ]  # fmt: skip
    *parts, result = [data for _, _, data in got]
    assert [row for part in parts for row in rows(part)] == [2.0 * n for n in range(10)]
    assert {data["request_id"] for data in (*parts, result)} == {call}
    plain = site.request(body(10), PATH, content_type="application/json")
    ((status, _, answered),) = ask(site, plain)
    assert status == 200
    assert result | {"request_id": ""} == json.loads(answered) | {"request_id": ""}


def test_the_first_part_comes_while_the_others_are_not_asked_for(site):
    site.replica.pause = 0.2
    began = time.monotonic()
    with events(site, 4 * BATCH) as found:
        came = [(kind, time.monotonic() - began) for kind, _, _ in found]
    assert [kind for kind, _ in came] == ["part"] * 4 + ["result"]
    assert came[0][1] < 0.4 * came[-1][1]
    assert site.replica.frames == [["task"], *[[NEXT]] * 4]


def test_a_call_is_one_row_written_before_its_first_part_is_read(site):
    site.replica.pause = 0.3
    with events(site) as found:
        kind, _, data = next(iter(found))
        (line,) = site.settled()
    assert (kind, line[1], line[9], line[10]) == ("part", data["request_id"], 200, 10)
    time.sleep(0.7)
    assert len(site.settled()) == 1


def test_other_calls_go_between_two_parts(site):
    site.replica.pause = 0.4
    with events(site, 10 * BATCH) as found:
        reader = iter(found)
        next(reader)
        plain = site.request(body(1), PATH, content_type="application/json")
        began = time.monotonic()
        assert ask(site, plain)[0][0] == 200
        assert time.monotonic() - began < 2.5, "one part may be before it, not all"
        assert len(list(reader)) == 10


def test_an_answer_that_has_no_parts_is_one_result(site):
    with events(site, BATCH) as found:
        assert [kind for kind, _, _ in found] == ["result"]


@pytest.mark.parametrize(
    ("harm", "status", "code"),
    [
        ({"key": "cb_no"}, 401, "bad_key"),
        ({"x_purpose": "spying"}, 403, "not_granted"),
        ({"x_request_timeout_ms": "soon"}, 422, "invalid_input"),
    ],
)
def test_an_error_before_the_first_part_is_a_problem_as_ever(site, harm, status, code):
    ((found, headers, answered),) = ask(site, request(site, **harm))
    problem = json.loads(answered)
    assert (found, problem["code"]) == (status, code)
    assert headers["content-type"] == "application/problem+json"
    assert headers["x-request-id"] == problem["request_id"]


def test_bad_input_is_a_problem_as_ever(site):
    wrong = site.request(b'{"inputs":[{}]}', PATH, accept="text/event-stream")
    ((status, _, answered),) = ask(site, wrong)
    assert (status, json.loads(answered)["code"]) == (400, "bad_json")


def test_the_calls_own_time_ends_it_and_frees_the_replica(site):
    site.replica.pause = 0.25
    began = time.monotonic()
    with events(site, 20 * BATCH, x_request_timeout_ms="600") as found:
        *parts, (kind, _, problem) = list(found)
    assert time.monotonic() - began < 3
    assert 1 <= len(parts) <= 3
    assert (kind, problem["code"]) == ("error", "deadline_exceeded")
    wait_for(lambda: len(site.replica.desk._begun) == 0)
    assert site.replica.asked(DROP) == 1
    assert [line[9] for line in site.settled()] == [200], "it was answered, in part"


def test_who_hangs_up_frees_the_replica(site):
    site.replica.pause = 0.1
    with events(site, 50 * BATCH) as found:
        next(iter(found))
    wait_for(lambda: len(site.replica.desk._begun) == 0)
    asked = site.replica.asked(NEXT)
    time.sleep(0.5)
    assert site.replica.asked(NEXT) == asked <= 10


def test_who_does_not_read_is_given_little_and_then_hung_up_on(site):
    """Parts of 800 kB: the system's buffers take some, the gateway one or two more."""
    width = 40_000
    site.replica.dressed = lambda served: _fat(served, width)
    with site.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.sendall(request(site, 100 * BATCH))
        time.sleep(0.6)
        asked = site.replica.asked(NEXT)
        assert asked < 30
        wait_for(lambda: len(site.replica.desk._begun) == 0, 10)
        assert site.replica.asked(NEXT) <= asked + 1
        with contextlib.suppress(ConnectionError):
            while connection.recv(1 << 20):
                pass


def _fat(served, width):
    """The same replies with blanks behind the JSON, as large parts have."""
    replies = [
        reply._replace(body=reply.body + b" " * 20 * width) if reply.more else reply
        for reply in served.replies
    ]
    return served._replace(replies=replies)


def test_a_lost_replica_costs_no_part_and_no_second_row(site, predictor):
    site.replica.pause = 0.05
    other = Replica(site.lane_folder, predictor)
    wait_for(lambda: site.lanes.count(APP) == 2)
    with events(site, 6 * BATCH) as found:
        reader = iter(found)
        got = [next(reader), next(reader)]
        first = site.replica if site.replica.frames else other
        first.die()
        got += list(reader)
    assert [kind for kind, _, _ in got] == ["part"] * 6 + ["result"]
    assert [row for _, _, part in got[:-1] for row in rows(part)] == [
        2.0 * n for n in range(6 * BATCH)
    ]
    assert len(site.replica.frames) > 1
    assert len(other.frames) > 1
    assert [line[9] for line in site.settled()] == [200]


def test_a_replica_that_forgot_is_asked_anew(site):
    with events(site, 5 * BATCH) as found:
        reader = iter(found)
        next(reader)
        time.sleep(0.2)
    site.replica.pause = 0.1
    with events(site, 5 * BATCH) as found:
        reader = iter(found)
        first = next(reader)
        site.replica.desk._begun.drop(first[2]["request_id"])
        assert [kind for kind, _, _ in reader] == ["part"] * 4 + ["result"]


def test_a_replica_that_stops_gives_the_rest_first(site):
    site.replica.pause = 0.1
    with events(site, 6 * BATCH) as found:
        reader = iter(found)
        next(reader)
        ending = threading.Thread(target=site.replica.lane.withdraw)
        ending.start()
        assert [kind for kind, _, _ in reader] == ["part"] * 5 + ["result"]
        ending.join(5)
        assert not ending.is_alive()
    assert site.replica.frames == [["task"], *[[NEXT]] * 6]


def test_without_a_lane_the_answer_is_one_result(site):
    site.replica.die()
    wait_for(lambda: not site.lanes.count(APP))
    seen = []

    async def by_handle(calls):
        seen.extend(calls)
        return Served(site.replica.desk.answer([c._replace(parts=False) for c in calls]))

    site.answer = by_handle
    with events(site) as found:
        assert [kind for kind, _, _ in found] == ["result"]
    assert len(seen) == 1


def test_the_connection_goes_on_after_the_last_event(site):
    with site.connect() as connection:
        for _ in range(2):
            connection.sendall(request(site))
            assert [kind for kind, _, _ in Events(connection)][-1] == "result"
        connection.sendall(site.request(body(1), PATH, content_type="application/json"))
        assert answers(connection)[0][0] == 200


def test_many_answers_at_once_are_never_mixed(site):
    """40 callers, each with its own numbers; what is one too many for the replica comes whole."""
    wrong, whole = [], []

    def caller(number):
        rng = np.random.default_rng(number)
        values = rng.integers(0, 1 << 20, int(rng.integers(5, 30))).astype(float)
        items = [{"tensors": {"x": [value] * WIDTH}} for value in values]
        raw = json.dumps({"inputs": items}).encode()
        with site.connect() as connection:
            connection.sendall(site.request(raw, PATH, accept="text/event-stream"))
            *parts, (kind, _, data) = list(Events(connection))
            got = [row for _, _, part in parts for row in rows(part)]
            right = (2 * values).tolist()
            if kind != "result" or rows(data) != right or got not in ([], right):
                wrong.append((number, kind, data))
            whole.extend([number] * (not parts))

    threads = [threading.Thread(target=caller, args=(n,)) for n in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(whole) <= 40 - MOST
    assert len(site.settled()) == 40
