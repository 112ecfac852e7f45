"""From the gateway's queue to a real model and back, for callers who do not wait for the end (I11)."""

import asyncio
import os
import threading
import time

import orjson
import pytest
import uvloop
from gauges import gauge

from citybrain.core.settings import ServingSettings
from citybrain.models.predictor import Predictor
from citybrain.serving.desk import Desk
from citybrain.serving.gateway import coalescer as gateway_coalescer
from citybrain.serving.gateway import lanes as gateway_lanes
from citybrain.serving.gateway.coalescer import Coalescer
from citybrain.serving.gateway.lanes import Lanes
from citybrain.serving.gateway.waiting import Waiting
from citybrain.serving.lane import LaneServer
from citybrain.serving.lane_doors import UnixDoor
from citybrain.serving.wire import Call, Reply, Served

APP = "flow.champion.v1"
CANCELLED = 1_000 if "TRUST_FULL" in os.environ else 100
ENDLESS = 9000.0


def call(x):
    body = orjson.dumps({"inputs": [{"features": {"x": x, "y": 1.0}}]})
    return Call("task", body, -1, "application/json", str(x))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run(answer, work)` gives a coroutine a coalescer in front of a lane."""
    monkeypatch.setattr(gateway_lanes, "LOOK_SECONDS", 0.02)

    def go(answer, work, **settings):
        async def main():
            lanes = Lanes(tmp_path / "lanes")
            looks = asyncio.create_task(lanes.keep())
            await asyncio.sleep(0.2)
            lane = lanes.idlest(APP)
            line = Coalescer(
                lambda calls, **_: lanes.idlest(APP).send(calls), lambda *_: None,
                ServingSettings(**settings), launch=lane.send,
            )  # fmt: skip
            await asyncio.wait_for(work(line, lane), 60)
            looks.cancel()
            await asyncio.gather(looks, return_exceptions=True)

        LaneServer(UnixDoor(tmp_path / "lanes", APP), answer).announce()
        uvloop.run(main())

    return go


@pytest.fixture
def model(tmp_path):
    """A model that takes as many turns as its input says."""
    desk = Desk(Predictor.open(gauge(tmp_path / "turns", "turns", side=300)), 1)

    def answer(calls, errand):
        errand.begin()
        return Served(desk.answer(calls, errand))

    return answer


def ask(line, x, **more):
    future = asyncio.get_running_loop().create_future()
    line.submit(Waiting(call(x), future, None, **more))
    return future


def test_callers_that_hang_up_leave_the_replica_free_within_a_second(run, model):
    async def work(line, lane):
        gone = False
        futures = [ask(line, ENDLESS, gone=lambda: gone) for _ in range(CANCELLED)]
        await asyncio.sleep(0.3)
        assert lane.load, "the replica is at it"
        gone, began = True, time.monotonic()
        assert (await ask(line, 1.0)).code == ""
        assert time.monotonic() - began < 5
        assert {reply.code for reply in await asyncio.gather(*futures)} == {"cancelled"}

    run(model, work)


def test_a_slow_input_is_ended_at_its_deadline_and_the_others_go_on(run, model):
    async def work(line, _lane):
        began = time.monotonic()
        late = ask(line, ENDLESS, deadline=time.perf_counter() + 0.4)
        await asyncio.sleep(0.05)
        others = [ask(line, 1.0) for _ in range(20)]
        assert (await late).code == "deadline_exceeded"
        assert {reply.code for reply in await asyncio.gather(*others)} == {""}
        assert time.monotonic() - began < 5

    run(model, work)


def test_what_takes_longer_than_the_platform_gives_is_ended_too(run, model):
    async def work(line, lane):
        assert (await ask(line, ENDLESS)).code == "deadline_exceeded"
        assert (await ask(line, 1.0)).code == ""
        assert lane.load == 0

    run(model, work, call_timeout=0.5)


def test_a_frame_keeps_its_place_until_a_replica_that_cannot_stop_is_done_with_it(run, monkeypatch):
    """No frame is sent behind it; only if the replica takes for ever the gateway goes on."""
    monkeypatch.setattr(gateway_coalescer, "HELD_SECONDS", 1.0)
    working, free, reached = threading.Semaphore(0), threading.Semaphore(0), []

    def deaf(calls, _errand):
        reached.append(calls[0].request_id)
        working.release()
        free.acquire(timeout=20)
        return Served([Reply(b"", -1, 1, "", "")] * len(calls))

    async def work(line, lane):
        gone = False
        first = [ask(line, float(n), gone=lambda: gone) for n in (3, 4)]
        await asyncio.to_thread(working.acquire)
        gone = True
        assert {reply.code for reply in await asyncio.gather(*first)} == {"cancelled"}
        behind = ask(line, 5.0)
        free.release()
        assert await asyncio.wait_for(asyncio.shield(asyncio.to_thread(working.acquire)), 5)
        free.release()
        assert (await behind).code == ""
        assert "5.0" in reached
        stuck = ask(line, 6.0, deadline=time.perf_counter() + 0.1)
        assert (await stuck).code == "deadline_exceeded"
        assert lane.load == 1
        await asyncio.sleep(1.3)
        assert lane.load == 1, "the gateway knows that the replica still has it"
        free.release()

    run(deaf, work)
