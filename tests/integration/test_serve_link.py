"""A call on its way by handle when Ray's head ends: refused at once, not after the call's time."""

import asyncio
import json
import socket
import time
from types import SimpleNamespace

import pytest

from citybrain.core.errors import NotReady
from citybrain.serving.gateway import serve_link
from citybrain.serving.gateway.lanes import Lanes
from citybrain.serving.gateway.serve_link import ServeLink
from citybrain.serving.wire import Call, Served

ROUTE = SimpleNamespace(app="flow.champion.v1", algorithm="flow", shared=False)
CALLS = [Call("oip", b"{}", -1, "", "1")]


@pytest.fixture
def link(tmp_path):
    """Connected to the first head; no lane is there."""
    found = ServeLink(tmp_path, Lanes(tmp_path / "lanes"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        found.listening, found.place = listening, f"127.0.0.1:{listening.getsockname()[1]}"
        head(found, 1)
        found._address = f"{found.place}#1"
        yield found


def head(link, number):
    (link._run / "ray.json").write_text(json.dumps({"address": f"{link.place}#{number}"}))


def answers(link, remote):
    link._handles[ROUTE.app] = SimpleNamespace(frame=SimpleNamespace(remote=remote))


def test_a_call_by_handle_is_refused_when_the_head_is_replaced(link):
    async def never(_calls, _left):
        head(link, 2)
        await asyncio.sleep(3600)

    answers(link, never)
    began = time.monotonic()
    with pytest.raises(NotReady, match="lost its replica"):
        asyncio.run(link.send(ROUTE, CALLS))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("noticed", [False, True])
def test_a_call_by_handle_is_refused_at_once_while_there_is_no_head(link, noticed):
    """Whether the supervisor has seen its end yet, and named the next one, or not."""

    async def never(_calls, _left):
        raise AssertionError("it was called")

    answers(link, never)
    link.listening.close()
    if noticed:
        head(link, 2)

    async def go():
        began = time.monotonic()
        with pytest.raises(NotReady, match="lost its replica"):
            await link.send(ROUTE, CALLS)
        return time.monotonic() - began

    assert asyncio.run(go()) < 1


def test_a_call_by_handle_that_is_slow_is_waited_for(link, tmp_path):
    async def slow(calls, _left):
        await asyncio.sleep(1.2)
        return Served([calls])

    answers(link, slow)
    assert asyncio.run(link.send(ROUTE, CALLS)).replies == [CALLS]


def test_a_call_by_handle_to_a_shared_replica_says_whose_it_is(link):
    async def named(calls, app, _left):
        return Served([(app, calls)])

    link._handles["shared"] = SimpleNamespace(frame=SimpleNamespace(remote=named))
    route = SimpleNamespace(app="flow.champion.v1.shared", algorithm="flow", shared=True)
    assert asyncio.run(link.send(route, CALLS)).replies == [(route.app, CALLS)]


def test_a_call_waits_for_a_gateway_that_has_just_started_to_reach_ray(link):
    async def echo(calls, left):
        assert left.ours
        return Served([calls])

    async def go():
        link._address = ""
        answers(link, echo)
        waiting = asyncio.ensure_future(link.send(ROUTE, CALLS))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        link._address = f"{link.place}#1"
        link._reached.set()
        return await waiting

    assert asyncio.run(go()).replies == [CALLS]


def test_a_call_is_refused_when_a_gateway_does_not_reach_ray(link, monkeypatch):
    monkeypatch.setattr(serve_link, "FIRST_SECONDS", 0.2)
    link._address = ""
    with pytest.raises(NotReady):
        asyncio.run(link.send(ROUTE, CALLS))


def test_a_search_for_a_handle_that_hangs_holds_no_call(link, monkeypatch):
    def hangs(_app):
        head(link, 2)
        time.sleep(3)

    monkeypatch.setattr(link, "_find", hangs)

    async def go():
        began = time.monotonic()
        with pytest.raises(NotReady, match="lost its replica"):
            await link.send(ROUTE, CALLS)
        return time.monotonic() - began

    assert asyncio.run(go()) < 2


def test_a_caller_who_gives_up_leaves_a_knock_behind_that_wakes_a_replica_for_the_next(link):
    asked, awake = [], asyncio.Event()

    async def asleep(calls, _left):
        asked.append(len(calls))
        await awake.wait()
        return Served([])

    async def go():
        answers(link, asleep)
        for _ in range(3):
            hurried = asyncio.ensure_future(link.send(ROUTE, CALLS))
            await asyncio.sleep(0.1)
            hurried.cancel()
            await asyncio.gather(hurried, return_exceptions=True)
        await asyncio.sleep(0.1)
        assert asked == [1, 0, 1, 1], "one knock, and no second one while it waits"
        awake.set()
        await asyncio.sleep(0.5)
        assert not link._knocks

    asyncio.run(go())
