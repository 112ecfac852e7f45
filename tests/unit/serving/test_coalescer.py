"""Calls share frames; answers are never mixed; failures reach everyone they concern."""

import asyncio
import random
import time

import pytest

from citybrain.core.errors import NotReady, Overloaded
from citybrain.core.settings import ServingSettings
from citybrain.serving.gateway.coalescer import Coalescer
from citybrain.serving.gateway.pace import Pace
from citybrain.serving.gateway.waiting import Waiting
from citybrain.serving.wire import Call, Reply, Served


def call(text):
    return Call("oip", text.encode(), -1, "", text)


def echo_of(frames):
    async def send(calls):
        frames.append(len(calls))
        await asyncio.sleep(random.Random(len(frames)).random() / 200)
        return Served([Reply(c.body, -1, 1, "", "") for c in calls])

    return send


def submit(coalescer, text, **more):
    future = asyncio.get_running_loop().create_future()
    coalescer.submit(Waiting(call(text), future, None, **more))
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


def test_who_gives_its_place_up_is_told_so_and_written_down():
    ends, release = [], asyncio.Event()

    async def waits(calls):
        await release.wait()
        return Served([Reply(c.body, -1, 1, "", "") for c in calls])

    def settle(frame, replies):
        ends.extend((w.call.body, r.code) for w, r in zip(frame, replies, strict=True))

    async def go():
        coalescer = Coalescer(waits, settle, ServingSettings(max_queued=4, max_frame_calls=1))
        away = [submit(coalescer, "away")]
        await asyncio.sleep(0)
        away.append(submit(coalescer, "away"))
        await asyncio.sleep(0)
        flood = [submit(coalescer, f"f{n}", department="flood") for n in range(4)]
        urgent = submit(coalescer, "u", department="fire", urgent=True)
        gone = flood.pop()
        assert gone.done()
        assert (gone.result().code, ends) == ("overloaded", [(b"f3", "overloaded")])
        release.set()
        replies = await asyncio.gather(urgent, *away, *flood)
        assert [reply.code for reply in replies] == [""] * 6

    asyncio.run(go())
    assert [body for body, _ in ends].index(b"u") < [body for body, _ in ends].index(b"f0")


@pytest.mark.parametrize(("frame", "waiting", "told"), [(0.0, 9, 1), (0.2, 9, 1), (1.0, 9, 5)])
def test_when_to_come_back_follows_the_line_and_the_pace(frame, waiting, told):
    error, pace = Overloaded("full"), Pace()
    for _ in range(3):
        pace.landed(frame, 1)
    pace.tell(error, waiting, 2)
    assert error.retry_after == told
    pace.tell(error, 10**6, 0)
    assert error.retry_after == (30 if frame else 1)


def test_an_error_of_the_replica_reaches_every_call_of_its_frame():
    async def send(calls):
        raise NotReady("away")

    replies = run(send, 3)
    assert [(r.code, r.body) for r in replies] == [("not_ready", b"away")] * 3


def test_a_frame_that_takes_too_long_is_given_up():
    async def send(calls):
        await asyncio.sleep(5)
        return Served([])

    (reply,) = run(send, 1, call_timeout=0.05)
    assert reply.code == "deadline_exceeded"


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


def test_a_call_is_answered_at_its_deadline_and_never_sent_when_it_still_waits():
    """One slow frame holds the replica; what gives up meanwhile leaves in no frame."""
    frames, ends = [], []

    async def slow(calls):
        frames.append([c.request_id for c in calls])
        await asyncio.sleep(2.0)
        return Served([Reply(c.body, -1, 1, "", "") for c in calls])

    async def go():
        settle = lambda waiting, replies: ends.extend(  # noqa: E731
            (w.call.request_id, r.code) for w, r in zip(waiting, replies, strict=True)
        )
        coalescer = Coalescer(slow, settle, ServingSettings(max_frame_calls=1))
        futures = [submit(coalescer, str(n)) for n in range(2)]
        await asyncio.sleep(0.01)
        late = submit(coalescer, "late", deadline=time.perf_counter() + 0.05)
        patient = submit(coalescer, "patient", deadline=time.perf_counter() + 30)
        began = time.perf_counter()
        reply = await late
        assert time.perf_counter() - began < 1.5
        assert reply.code == "deadline_exceeded"
        assert (await patient).code == ""
        await asyncio.gather(*futures)

    asyncio.run(go())
    assert frames == [["0"], ["1"], ["patient"]]
    assert sorted(ends) == [("0", ""), ("1", ""), ("late", "deadline_exceeded"), ("patient", "")]


def test_a_call_whose_time_ends_on_the_way_is_settled_once():
    ends = []

    async def slow(calls):
        assert 0 < calls[0].deadline - time.perf_counter() <= 0.05
        await asyncio.sleep(0.15)
        return Served([Reply(c.body, -1, 1, "", "") for c in calls])

    async def go():
        coalescer = Coalescer(slow, lambda w, r: ends.extend(r), ServingSettings())
        late = submit(coalescer, "late", deadline=time.perf_counter() + 0.05)
        other = submit(coalescer, "other")
        assert (await late).code == "deadline_exceeded"
        assert (await other).body == b"other"

    asyncio.run(go())
    assert [reply.code for reply in ends] == ["deadline_exceeded", ""]


def test_a_caller_that_hung_up_frees_its_place():
    frames, ends = [], []

    async def slow(calls):
        frames.append([c.request_id for c in calls])
        await asyncio.sleep(0.05)
        return Served([Reply(c.body, -1, 1, "", "") for c in calls])

    async def go():
        coalescer = Coalescer(slow, lambda w, r: ends.extend(r), ServingSettings(max_frame_calls=1))
        first = [submit(coalescer, str(n)) for n in range(2)]
        await asyncio.sleep(0.01)
        submit(coalescer, "gone", gone=lambda: True)
        submit(coalescer, "cancelled").cancel()
        await asyncio.gather(*first, submit(coalescer, "last"))

    asyncio.run(go())
    assert frames == [["0"], ["1"], ["last"]]
    assert sorted(reply.code for reply in ends) == ["", "", "", "cancelled", "cancelled"]


def test_a_line_full_of_callers_that_hung_up_refuses_nobody():
    frames, ends = [], []

    async def slow(calls):
        frames.append([c.request_id for c in calls])
        await asyncio.sleep(0.05)
        return Served([Reply(c.body, -1, 1, "", "") for c in calls])

    def settle(frame, replies):
        ends.extend((w.call.request_id, r.code) for w, r in zip(frame, replies, strict=True))

    async def go():
        settings = ServingSettings(max_frame_calls=1, max_queued=4, max_queued_department=4)
        coalescer = Coalescer(slow, settle, settings)
        first = [submit(coalescer, str(n)) for n in range(2)]
        await asyncio.sleep(0.01)
        gone = [submit(coalescer, f"gone{n}") for n in range(3)]
        stays = submit(coalescer, "stays")
        for future in gone:
            future.cancel()
        last = submit(coalescer, "last"), submit(coalescer, "too")
        await asyncio.gather(*first, stays, *last)

    asyncio.run(go())
    assert [end for end in ends if end[1]] == [(f"gone{n}", "cancelled") for n in range(3)]
    assert frames == [["0"], ["1"], ["stays"], ["last"], ["too"]]


def test_a_reply_tells_where_its_time_went():
    async def send(calls):
        await asyncio.sleep(0.02)
        return Served([Reply(b"", -1, 1, "", "")], 0.004, 0.008)

    async def go():
        waiting = Waiting(call("1"), asyncio.get_running_loop().create_future(), None)
        Coalescer(send, lambda *_: None, ServingSettings()).submit(waiting)
        await waiting.outcome
        return waiting.timing().decode()

    parts = dict(part.split(";dur=") for part in asyncio.run(go()).split(", "))
    assert (parts["wait"], parts["work"]) == ("4.00", "8.00")
    assert float(parts["way"]) >= 8
    assert float(parts["total"]) >= 20


def test_frames_follow_the_replicas_that_come_and_go():
    """Two frames a replica at a time, as many as there are when the frames leave."""
    replicas, away, most = 1, 0, []

    async def send(calls):
        nonlocal away
        away += 1
        most.append(away)
        await asyncio.sleep(0.01)
        away -= 1
        return Served([Reply(c.body, -1, 1, "", "") for c in calls])

    async def go():
        nonlocal replicas
        settings = ServingSettings(max_frame_calls=1)
        coalescer = Coalescer(send, lambda *_: None, settings, replicas=lambda: replicas)
        for replicas, frames in ((1, 2), (3, 6), (1, 2)):  # noqa: B007 - the coalescer asks
            most.clear()
            await asyncio.gather(*[submit(coalescer, str(n)) for n in range(20)])
            assert max(most) == frames

    asyncio.run(go())


def test_who_waits_in_vain_for_a_replica_is_told_in_time_and_none_is_sent_after_it():
    """No replica comes: what has left is given up, and what waits behind it as well."""
    frames = []

    async def never(calls):
        frames.append(len(calls))
        await asyncio.sleep(3600)

    async def go():
        settings = ServingSettings(max_frame_calls=1, call_timeout=0.2)
        coalescer = Coalescer(never, lambda *_: None, settings)
        began = time.perf_counter()
        replies = await asyncio.gather(*[submit(coalescer, str(n)) for n in range(50)])
        assert time.perf_counter() - began < 5
        assert {reply.code for reply in replies} == {"deadline_exceeded"}

    asyncio.run(go())
    assert len(frames) == 2
