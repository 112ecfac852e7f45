"""Calls share frames; answers are never mixed; failures reach everyone they concern."""

import asyncio
import random

import pytest

from citybrain.core.errors import NotReady, Overloaded
from citybrain.core.settings import ServingSettings
from citybrain.serving.gateway.coalescer import Coalescer, Waiting
from citybrain.serving.wire import Call, Reply


def call(text):
    return Call("oip", text.encode(), -1, "", text)


def echo_of(frames):
    async def send(calls):
        frames.append(len(calls))
        await asyncio.sleep(random.Random(len(frames)).random() / 200)
        return [Reply(c.body, -1, 1, "", "") for c in calls]

    return send


def submit(coalescer, text):
    future = asyncio.get_running_loop().create_future()
    coalescer.submit(Waiting(call(text), future, None))
    return future


def run(send, count, settle=lambda *_: None, **settings):
    async def go():
        coalescer = Coalescer(send, settle, ServingSettings(**settings))
        return await asyncio.gather(*[submit(coalescer, str(n)) for n in range(count)])

    return asyncio.run(go())


def test_each_caller_gets_its_own_answer():
    frames = []
    replies = run(echo_of(frames), 1000)
    assert [reply.body for reply in replies] == [str(n).encode() for n in range(1000)]
    assert max(frames) == 64


def test_sixty_four_calls_at_once_need_at_most_eight_frames():
    frames = []
    run(echo_of(frames), 64)
    assert len(frames) <= 8


def test_a_frame_keeps_to_its_limit_of_bytes():
    frames = []
    run(echo_of(frames), 20, max_frame_bytes=10)
    assert max(frames) <= 10


def test_calls_over_the_limit_are_refused_at_once():
    with pytest.raises(Overloaded):
        run(echo_of([]), 30, max_queued=10)


def test_an_error_of_the_replica_reaches_every_call_of_its_frame():
    async def send(calls):
        raise NotReady("away")

    replies = run(send, 3)
    assert [(r.code, r.body) for r in replies] == [("not_ready", b"away")] * 3


def test_a_frame_that_takes_too_long_is_given_up():
    async def send(calls):
        await asyncio.sleep(5)
        return []

    (reply,) = run(send, 1, call_timeout=0.05)
    assert reply.code == "unavailable"


def test_what_cannot_be_recorded_is_not_answered():
    def settle(frame, replies):
        raise OSError(28, "disk full")

    (reply,) = run(echo_of([]), 1, settle)
    assert reply.code == "unavailable"
    assert reply.body == b"The usage of this call cannot be recorded."


def test_settling_comes_before_answering():
    order = []

    async def go():
        coalescer = Coalescer(echo_of([]), lambda *_: order.append("settled"), ServingSettings())
        future = submit(coalescer, "x")
        future.add_done_callback(lambda _: order.append("answered"))
        await future
        await asyncio.sleep(0)

    asyncio.run(go())
    assert order == ["settled", "answered"]
