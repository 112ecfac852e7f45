"""Calls whose callers gave up: before their turn they never reach the model, in it they end it."""

import threading
import time

import orjson
import pytest
from gauges import gauge

from citybrain.core.errors import Cancelled
from citybrain.models.predictor import Predictor
from citybrain.models.runtime import Runtime, Stop
from citybrain.serving.desk import Desk
from citybrain.serving.errand import Errand
from citybrain.serving.wire import Call

NEVER = 1e9
"""Turns of the loop: some minutes, if nobody ends it."""


def call(x, **more):
    body = orjson.dumps({"inputs": [{"features": {"x": x, "y": 1.0}}]})
    return Call("task", body, -1, "application/json", "", **more)


@pytest.fixture
def predictor(tmp_path):
    """A model that takes as long as its input says; what reached it is noted."""
    found = Predictor.open(gauge(tmp_path / "turns", "turns", side=200))
    found.reached, infer = [], found.runtime.infer

    def note(inputs):
        found.reached.append(inputs["features"][:, 0].tolist())
        return infer(inputs)

    found.runtime.infer = note
    return found


def test_a_call_whose_time_is_up_never_reaches_the_model(predictor):
    now = time.perf_counter()
    calls = [call(1, deadline=now - 0.001), call(2), call(3, deadline=now + 60), call(4)]
    replies = Desk(predictor, 1).answer(calls)
    assert [reply.code for reply in replies] == ["deadline_exceeded", "", "", ""]
    assert predictor.reached == [[2, 3, 4]]


def test_nor_does_one_whose_time_ends_while_its_neighbours_are_decoded(predictor, monkeypatch):
    desk = Desk(predictor, 1)
    decode = desk._decode

    def slow(one):
        time.sleep(0.1)
        return decode(one)

    monkeypatch.setattr(desk, "_decode", slow)
    hurried = call(1, deadline=time.perf_counter() + 0.15)
    replies = desk.answer([hurried, call(2)])
    assert [reply.code for reply in replies] == ["deadline_exceeded", ""]
    assert predictor.reached == [[2]]


def test_a_frame_that_was_given_up_before_its_turn_never_reaches_the_model(predictor):
    errand = Errand()
    errand.ask()
    replies = Desk(predictor, 1).answer([call(1), call(2)], errand)
    assert {reply.code for reply in replies} == {"cancelled"}
    assert predictor.reached == []


def test_a_frame_that_is_given_up_ends_its_model_call_and_no_other(predictor):
    desk, errand = Desk(predictor, 1), Errand()
    threading.Timer(0.3, errand.ask).start()
    began = time.perf_counter()
    replies = desk.answer([call(NEVER), call(1)], errand)
    assert 0.2 < time.perf_counter() - began < 3
    assert {reply.code for reply in replies} == {"cancelled"}
    assert predictor.reached == [[NEVER, 1]], "it was not tried again one by one"
    errand.ask()  # once more, too late
    assert [reply.code for reply in desk.answer([call(1)])] == [""]


def test_one_that_ends_again_and_again_harms_no_later_call(predictor):
    """The end may come before, in or behind a model call; the next one is never hit."""
    desk = Desk(predictor, 1)
    for number in range(60):
        errand = Errand()
        ending = threading.Timer(number / 10_000, errand.ask)
        ending.start()
        assert desk.answer([call(20)], errand)[0].code in ("", "cancelled")
        assert desk.answer([call(1)])[0].code == ""
        ending.join()


class Deaf(Runtime):
    """A runtime that cannot be stopped."""

    def load(self, package, *, threads=1):
        """Nothing."""

    def infer(self, inputs):
        time.sleep(0.1)
        return inputs


def test_a_model_that_cannot_be_stopped_ends_its_call_and_begins_no_other():
    stop, runtime = Stop(), Deaf()
    threading.Timer(0.05, stop.ask).start()
    assert stop.infer(runtime, {"x": 1}) == {"x": 1}
    with pytest.raises(Cancelled):
        stop.infer(runtime, {"x": 1})
