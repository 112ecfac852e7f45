"""Replicas that end under their frames, from a call or from outside; each is a process of its own."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from functools import partial
from types import SimpleNamespace

import pytest
import uvloop

from citybrain.core.settings import ServingSettings
from citybrain.serving.gateway import lanes as gateway_lanes
from citybrain.serving.gateway import serve_link
from citybrain.serving.gateway.coalescer import Coalescer
from citybrain.serving.gateway.lanes import Lanes
from citybrain.serving.gateway.serve_link import ServeLink
from citybrain.serving.gateway.waiting import Waiting
from citybrain.serving.wire import Call

ROUTE = SimpleNamespace(app="flow.champion.v1", algorithm="flow", shared=False)
KEEPER = """
import os, sys, threading, time
from pathlib import Path
from citybrain.serving.lane import LaneServer
from citybrain.serving.lane_doors import UnixDoor
from citybrain.serving.wire import Reply, Served

model = threading.Lock()

def answer(calls, errand):
    with model:
        errand.begin()
        for call in calls:
            time.sleep(0.001)
            if call.body == b"deadly":
                os._exit(1)
        return Served([Reply(call.body, -1, 1, "", "") for call in calls])

def replica():
    LaneServer(UnixDoor(Path(sys.argv[1]), "flow.champion.v1"), answer).announce()
    threading.Event().wait()

def start():
    process = os.fork()
    if not process:
        replica()
    print(process, flush=True)

for _ in range(int(sys.argv[2])):
    start()
while True:
    os.wait()
    start()
"""


class Keeper:
    """Keeps so many replicas running, as Ray Serve does."""

    def __init__(self, folder, count):
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", KEEPER, str(folder), str(count)],
            stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self._count = count
        self.started = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self._process.stdout:
            self.started.append(int(line))

    @property
    def deaths(self):
        return len(self.started) - self._count

    def close(self):
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Handle:
    """What Serve does with a frame: it waits for a replica, and gives it to that. Ray is not there."""

    def __init__(self, lanes):
        self._lanes = lanes
        self.frame = self

    def get(self, _app):
        return self

    def pop(self, *_):
        """Frames that are lost by handle go by another one of the same kind."""

    async def remote(self, calls, _left):
        for _ in range(1000):
            if lane := self._lanes.idlest(ROUTE.app):
                return await lane.send(calls)
            await asyncio.sleep(0.01)
        raise AssertionError("no replica came")


class Gateway:
    """A coalescer with the ways that a gateway has."""

    def __init__(self, run, folder):
        self.lanes = Lanes(folder)
        self.link = ServeLink(run, self.lanes)
        self.link._address = serve_link.ray_address(run)
        self.link._handles = Handle(self.lanes)
        self.coalescer = Coalescer(
            partial(self.link.send, ROUTE), lambda *_: None, ServingSettings(),
            launch=partial(self.link.launch, ROUTE), replicas=lambda: self.lanes.count(ROUTE.app) or 1,
        )  # fmt: skip

    async def found(self, replicas):
        for _ in range(3000):
            if self.lanes.count(ROUTE.app) == replicas:
                return
            await asyncio.sleep(0.02)

    async def ask(self, body):
        future = asyncio.get_running_loop().create_future()
        self.coalescer.submit(Waiting(Call("oip", body, -1, "", ""), future, None))
        return await future

    async def ask_on(self, name, found, stop):
        number = 0
        while not stop.is_set():
            number += 1
            found.append(await self.ask(f"{name} {number}".encode()))
            await asyncio.sleep(0.001)


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Two gateways; `run(replicas, work)` gives them to a coroutine once they have found all lanes."""
    monkeypatch.setattr(gateway_lanes, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(serve_link, "PAUSE_SECONDS", 0.02)

    def run(replicas, work):
        async def go():
            head = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
            address = f"127.0.0.1:{head.sockets[0].getsockname()[1]}#1"
            (tmp_path / "ray.json").write_text(json.dumps({"address": address}))
            gateways = [Gateway(tmp_path, tmp_path / "lanes") for _ in range(2)]
            looks = [asyncio.create_task(gateway.lanes.keep()) for gateway in gateways]
            try:
                for gateway in gateways:
                    await gateway.found(replicas)
                await asyncio.wait_for(work(keeper, *gateways), 60)
            finally:
                for look in looks:
                    look.cancel()
                await asyncio.gather(*looks, return_exceptions=True)
                head.close()

        keeper = Keeper(tmp_path / "lanes", replicas)
        try:
            uvloop.run(go())
        finally:
            keeper.close()

    return run


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_call_that_ends_replicas_fails_and_its_neighbours_are_answered(world, replicas):
    """Also those of another gateway, whose frames go down with the same replicas."""

    async def work(keeper, here, there):
        found, stop = [], asyncio.Event()
        others = [
            asyncio.create_task(gateway.ask_on(f"{name}{n}", found, stop))
            for n in range(4) for name, gateway in (("here", here), ("there", there))
        ]  # fmt: skip
        await asyncio.sleep(0.1)
        neighbours = [asyncio.create_task(here.ask(b"before %d" % n)) for n in range(5)]
        deadly = asyncio.create_task(here.ask(b"deadly"))
        neighbours += [asyncio.create_task(here.ask(b"behind %d" % n)) for n in range(5)]
        replies = await asyncio.gather(*neighbours)
        reply = await deadly
        stop.set()
        await asyncio.gather(*others)
        assert (reply.code, b"ended twice" in reply.body) == ("model_failed", True)
        assert {r.code for r in replies} == {""}
        assert [r.body for r in replies[5:]] == [b"behind %d" % n for n in range(5)]
        assert {r.code for r in found} == {""}
        assert 2 <= keeper.deaths <= 4  # three, unless a replica's last word was lost with it

    world(replicas, work)


def test_a_call_that_ends_replicas_alone_ends_two(world):
    async def work(keeper, here, _there):
        assert (await here.ask(b"deadly")).code == "model_failed"
        await asyncio.sleep(0.1)
        assert keeper.deaths == 2
        assert (await here.ask(b"fine")).body == b"fine"

    world(1, work)


def test_a_replica_that_is_killed_from_outside_costs_no_call(world):
    async def work(keeper, here, there):
        found, stop = [], asyncio.Event()
        callers = [
            asyncio.create_task(gateway.ask_on(f"{n}", found, stop))
            for n in range(8) for gateway in (here, there)
        ]  # fmt: skip
        for _ in range(4):
            await asyncio.sleep(0.5)
            os.kill(keeper.started[-1], signal.SIGKILL)
        await asyncio.sleep(0.5)
        stop.set()
        await asyncio.gather(*callers)
        assert {reply.code for reply in found} == {""}
        assert keeper.deaths == 4

    world(2, work)
