"""Frames over a replica's own socket: right answers, a polite end, and nothing from strangers."""

import asyncio
import os
import random
import socket
import threading
import time
from types import SimpleNamespace

import pytest
import uvloop

from citybrain.core.errors import Unavailable
from citybrain.core.sockets import address_of
from citybrain.serving.gateway import lanes as gateway_lanes
from citybrain.serving.gateway.lanes import Lanes
from citybrain.serving.lane import LaneServer
from citybrain.serving.lane_doors import UnixDoor, prefix
from citybrain.serving.notes import SUFFIX
from citybrain.serving.wire import (
    Call,
    Departure,
    FrameLost,
    Reply,
    Served,
    by_our_clock,
    node,
)


def call(text):
    return Call("oip", text.encode(), -1, "", text)


def echo(calls, _errand=None):
    return Served([Reply(c.body, c.header_length, 1, "", "") for c in calls], 0.25, 0.5, 0.125)


class Replica:
    """What a replica does with its lane."""

    def __init__(self, folder, app="flow.champion.v1", answer=echo):
        self.lane = LaneServer(UnixDoor(folder, app), answer)
        self.lane.announce()


def with_lanes(folder, work):
    """Run a coroutine with a gateway's lanes, once they have looked."""

    async def go():
        lanes = Lanes(folder)
        keeper = asyncio.create_task(lanes.keep())
        await asyncio.sleep(0.05)
        try:
            return await asyncio.wait_for(work(lanes), 30)
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            await asyncio.sleep(0)

    return uvloop.run(go())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(gateway_lanes, "LOOK_SECONDS", 0.02)
    return tmp_path / "lanes"


async def until(condition):
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come")


def test_frames_of_any_size_come_back_whole_and_to_the_right_caller(folder):
    """2,000 frames of 1 to 8 calls and 0 to 200 kB, many at a time, from two gateways."""
    Replica(folder)
    random_bytes = random.Random(5)

    async def work(lanes):
        async def one(number):
            calls = [
                call(f"{number}:{part}:" + "x" * random_bytes.choice([0, 10, 1000, 200_000]))
                for part in range(random_bytes.randint(1, 8))
            ]
            served = await lanes.idlest("flow.champion.v1").send(calls)
            assert [r.body for r in served.replies] == [c.body for c in calls]
            assert (served.waited, served.worked, served.modelled) == (0.25, 0.5, 0.125)

        for batch in range(20):
            await asyncio.gather(*[one(batch * 50 + n) for n in range(50)])

    threads = [threading.Thread(target=with_lanes, args=(folder, work)) for _ in range(2)]
    errors = []
    threading.excepthook, old = lambda args: errors.append(args.exc_value), threading.excepthook
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        threading.excepthook = old
    assert errors == []


def test_the_idlest_replica_is_chosen_and_another_application_is_not(folder):
    release = threading.Event()

    def slow(calls, _errand):
        release.wait(10)
        return echo(calls)

    Replica(folder, answer=slow)
    Replica(folder, answer=slow)
    Replica(folder, app="crowd.champion.v1")

    async def work(lanes):
        assert lanes.idlest("unknown.champion.v1") is None
        first = lanes.idlest("flow.champion.v1")
        away = [first.send([call("1")])]
        second = lanes.idlest("flow.champion.v1")
        away.append(second.send([call("2")]))
        assert first is not second
        assert lanes.idlest("flow.champion.v1").load == 1
        release.set()
        await asyncio.gather(*away)
        assert first.load == second.load == 0

    with_lanes(folder, work)


def test_a_withdrawn_lane_answers_what_it_has_and_takes_no_more(folder):
    begun = threading.Event()

    def slow(calls, _errand):
        begun.set()
        time.sleep(0.2)
        return echo(calls)

    replica = Replica(folder, answer=slow)

    async def work(lanes):
        away = [lanes.idlest("flow.champion.v1").send([call(str(n))]) for n in range(3)]
        await asyncio.to_thread(begun.wait)
        ending = asyncio.create_task(asyncio.to_thread(replica.lane.withdraw))
        await until(lambda: lanes.idlest("flow.champion.v1") is None)
        answers = await asyncio.gather(*away)
        assert [served.replies[0].body for served in answers] == [b"0", b"1", b"2"]
        begin = time.monotonic()
        await ending
        assert time.monotonic() - begin < 5, "it waited for gateways that had hung up"
        assert list(folder.iterdir()) == []

    with_lanes(folder, work)


def test_a_lane_that_breaks_fails_what_was_away_and_a_new_one_is_found(folder):
    def die(calls, _errand):
        raise OSError("gone")

    Replica(folder, answer=die)

    async def work(lanes):
        with pytest.raises(FrameLost):
            await lanes.idlest("flow.champion.v1").send([call("1")])
        assert lanes.idlest("flow.champion.v1") is None
        Replica(folder)
        await until(lambda: lanes.idlest("flow.champion.v1"))

        async def answered():
            try:
                return await lanes.idlest("flow.champion.v1").send([call("2")])
            except FrameLost:  # the first one is still there and may be found again
                return None

        found = [await answered() for _ in range(20)]
        assert any(found)

    with_lanes(folder, work)


def test_a_name_without_a_replica_behind_it_is_cleared_away(folder):
    folder.mkdir(mode=0o700)
    path = folder / f"{prefix('flow.champion.v1')}dead{SUFFIX}"
    dead = socket.socket(socket.AF_UNIX)
    with address_of(path) as address:
        dead.bind(address)
    dead.close()

    async def work(lanes):
        await until(lambda: not path.exists())
        assert lanes.idlest("flow.champion.v1") is None

    with_lanes(folder, work)


@pytest.mark.parametrize("junk", [b"\xff\xff\xff\xff", b"\x03\x00\x00\x00abc", b"\x01\x00"])
def test_bytes_that_are_no_frame_end_that_connection_alone(folder, junk):
    Replica(folder)

    async def work(lanes):
        (path,) = folder.iterdir()
        with address_of(path) as address:
            reader, writer = await asyncio.open_unix_connection(address)
        writer.write(junk)
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        (reply,) = (await lanes.idlest("flow.champion.v1").send([call("fine")])).replies
        assert reply.body == b"fine"

    with_lanes(folder, work)


@pytest.mark.parametrize("junk", [b"\xff\xff\xff\xff", b"\x03\x00\x00\x00abc"])
def test_a_replica_that_sends_no_answer_is_let_go(folder, junk):
    folder.mkdir(mode=0o700)

    async def replica(reader, writer):
        await reader.read(10)
        writer.write(junk)

    async def work(lanes):
        path = folder / f"{prefix('flow.champion.v1')}odd{SUFFIX}"
        with address_of(path) as address:
            server = await asyncio.start_unix_server(replica, address)
        await until(lambda: lanes.idlest("flow.champion.v1"))
        with pytest.raises(FrameLost):
            await lanes.idlest("flow.champion.v1").send([call("1")])
        server.close()

    with_lanes(folder, work)


def test_a_folder_may_be_deeper_than_the_address_of_a_socket_is_long(folder, tmp_path):
    deep = tmp_path / ("x" * 120) / ("y" * 120)
    deep.mkdir(parents=True)
    deep.chmod(0o700)
    replica = Replica(deep / "lanes")

    async def work(lanes):
        (reply,) = (await lanes.idlest("flow.champion.v1").send([call("fine")])).replies
        assert reply.body == b"fine"
        await asyncio.to_thread(replica.lane.withdraw)
        assert list((deep / "lanes").iterdir()) == []

    with_lanes(deep / "lanes", work)


def test_a_name_that_no_socket_can_have_is_said(tmp_path):
    with pytest.raises(Unavailable, match="too long for a socket"):
        with address_of(tmp_path / ("z" * 200)):
            pass


def test_a_gateway_that_comes_during_the_goodbye_is_told_and_answered(folder):
    """It has found the name, and connects when the replica has said goodbye to the others."""
    replica = Replica(folder)
    release = threading.Event()
    admit = replica.lane.door.admit

    def late(connection):
        release.wait(10)
        return admit(connection)

    replica.lane.door.admit = late

    async def work(lanes):
        await lanes.look()
        lane = lanes.idlest("flow.champion.v1")
        away = lane.send([call("1")])
        ending = asyncio.create_task(asyncio.to_thread(replica.lane.withdraw))
        await until(lambda: not list(folder.iterdir()))
        await asyncio.sleep(0.05)
        release.set()
        assert (await away).replies[0].body == b"1"
        await until(lambda: lane.gone)
        await asyncio.wait_for(ending, 5)

    with_lanes(folder, work)


def test_a_folder_that_others_can_enter_is_refused(folder):
    folder.mkdir(mode=0o700)
    folder.chmod(0o755)
    with pytest.raises(Unavailable, match="entered by others"):
        Lanes(folder)
    folder.rmdir()
    os.symlink("/tmp", folder)
    with pytest.raises(Unavailable, match="entered by others"):
        UnixDoor(folder, "flow.champion.v1")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_another_user_is_not_served(tmp_path, monkeypatch):
    """Even with the folder's mode out of the way."""
    monkeypatch.setattr("citybrain.serving.lane_doors.private_folder", lambda folder: folder)
    import subprocess
    import sys
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        os.chmod(name, 0o777)
        from pathlib import Path

        Replica(Path(name))
        (path,) = Path(name).iterdir()
        path.chmod(0o777)
        code = (
            "import os, socket, sys\n"
            "os.setuid(65534)\n"
            "s = socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect(sys.argv[1])\n"
            "print(s.recv(1) == b'')"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
        )
        assert done.stdout.strip() == "True", done.stderr


def test_a_replica_knows_how_many_frames_it_has_also_those_that_wait(folder):
    working, go_on = threading.Semaphore(0), threading.Semaphore(0)

    def slow(calls, _errand):
        working.release()
        go_on.acquire(timeout=10)
        return echo(calls)

    load = Replica(folder, answer=slow).lane.load

    async def mean():
        await asyncio.sleep(0.1)  # a frame that waits is read a moment after it came
        load.take()
        await asyncio.sleep(0.05)
        return load.take()

    async def work(lanes):
        assert lanes.count("flow.champion.v1") == 1
        assert lanes.count("other.champion.v1") == 0
        lane = lanes.idlest("flow.champion.v1")
        first = lane.send([call("a")])
        assert await asyncio.to_thread(working.acquire, timeout=10)
        assert await mean() == 1
        second = lane.send([call("b")])
        assert await mean() == 2
        go_on.release()
        await first
        assert await mean() == 1
        go_on.release()
        await second
        assert await mean() == 0

    with_lanes(folder, work)


def busy_replica(folder):
    """A replica that answers how long each frame waited; the first takes as long as it is told."""
    replica = SimpleNamespace(begun=threading.Event(), go_on=threading.Event(), seen=[])

    def answer(calls, errand):
        began = errand.begin()
        replica.seen.append(calls[0].request_id)
        if not replica.begun.is_set():
            replica.begun.set()
            while not errand.asked and not replica.go_on.wait(0.005):
                pass
        return echo(calls)._replace(waited=began - errand.arrived)

    replica.lane = Replica(folder, answer=answer).lane
    return replica


@pytest.mark.parametrize("seconds", [0.2, 0.004])
def test_the_time_that_a_frame_waits_unread_behind_another_is_told(folder, seconds):
    replica = busy_replica(folder)

    async def work(lanes):
        lane = lanes.idlest("flow.champion.v1")
        first = lane.send([call("1")])
        await asyncio.to_thread(replica.begun.wait)
        began = time.perf_counter()
        second = lane.send([call("2")])
        await asyncio.sleep(seconds)
        replica.go_on.set()
        assert (await first).waited < 0.05
        served = await second
        assert 0.9 * seconds < served.waited < time.perf_counter() - began

    with_lanes(folder, work)


def test_a_frame_from_another_node_has_as_long_as_was_left_when_it_left():
    elsewhere = Departure(1000.0, "another boot of another node")
    calls = [call("1")._replace(deadline=1002.5), call("2")]
    assert [c.deadline for c in by_our_clock(calls, elsewhere, 7.0)] == [9.5, 0.0]
    assert by_our_clock(calls, Departure(1000.0, node()), 7.0) is calls
    assert by_our_clock(calls, Departure(1000.0), 7.0) is calls


def test_the_clock_is_one_that_all_processes_of_a_node_share():
    assert time.get_clock_info("perf_counter").implementation == "clock_gettime(CLOCK_MONOTONIC)"


def test_a_cancelled_frame_is_dropped_before_it_begins_and_ended_while_it_runs(folder):
    replica = busy_replica(folder)

    async def work(lanes):
        lane = lanes.idlest("flow.champion.v1")
        running, waiting, last = (lane.send([call(str(n))]) for n in range(3))
        await asyncio.to_thread(replica.begun.wait)
        assert waiting.cancel()
        await asyncio.wait([waiting], timeout=5)
        assert waiting.cancelled()
        assert lane.load == 2
        assert running.cancel()
        assert not running.done(), "the replica has not let it go yet"
        await asyncio.wait([running], timeout=5)
        assert running.cancelled()
        assert (await last).replies[0].body == b"2"
        assert replica.seen == ["0", "2"]
        assert lane.load == 0

    with_lanes(folder, work)


def test_a_second_cancel_waits_for_no_replica(folder):
    release = threading.Event()

    def deaf(calls, _errand):
        release.wait(10)
        return echo(calls)

    Replica(folder, answer=deaf)

    async def work(lanes):
        lane = lanes.idlest("flow.champion.v1")
        away = lane.send([call("1")])
        away.cancel()
        await asyncio.sleep(0.05)
        assert not away.done()
        away.cancel()
        with pytest.raises(asyncio.CancelledError):
            await away
        assert lane.load == 1, "the replica is still at it"
        release.set()
        await until(lambda: lane.load == 0)

    with_lanes(folder, work)


def test_the_frames_of_a_gateway_that_is_gone_are_given_up(folder):
    replica = busy_replica(folder)

    async def work(lanes):
        lane = lanes.idlest("flow.champion.v1")
        lost = [lane.send([call(str(n))]) for n in range(2)]
        await asyncio.to_thread(replica.begun.wait)
        lane.abort()
        await asyncio.wait(lost)
        await until(lambda: lanes.idlest("flow.champion.v1"))
        served = await lanes.idlest("flow.champion.v1").send([call("next")])
        assert served.replies[0].body == b"next"
        assert replica.seen == ["0", "next"]

    with_lanes(folder, work)


def test_a_frame_that_was_lost_knows_whether_the_work_on_it_had_begun(folder):
    begun = threading.Event()

    def die(calls, errand):
        errand.begin()
        begun.set()
        time.sleep(0.1)
        raise OSError("gone")

    Replica(folder, answer=die)

    async def work(lanes):
        lane = lanes.idlest("flow.champion.v1")
        first, second = lane.send([call("1")], again=True), lane.send([call("2")], again=True)
        await asyncio.to_thread(begun.wait)
        for away, had_begun in ((first, True), (second, False)):
            with pytest.raises(FrameLost) as lost:
                await away
            assert lost.value.begun is had_begun

    with_lanes(folder, work)


def test_large_frames_lie_in_one_piece_and_small_ones_are_copied(folder):
    """Read ahead or not, whole or in pieces: what the replica sees is what was sent."""
    kinds, release = [], threading.Event()

    def look(calls, _errand):
        release.wait(10)
        kinds.append({type(c.body) for c in calls})
        assert all(c.body == c.content_type.encode() * (len(c.body) // 4) for c in calls)
        return echo([c._replace(body=bytes(c.body)) for c in calls])

    Replica(folder, answer=look)

    async def work(lanes):
        lane = lanes.idlest("flow.champion.v1")
        sizes = [0, 40, 70_000, 4_000_000, 40, 65_000, 65_520, 65_536, 131_072, 4]
        sent = [Call("oip", b"%04d" % n * (s // 4), 0, f"{n:04d}", "") for n, s in enumerate(sizes)]
        away = [lane.send([one]) for one in sent]
        await asyncio.sleep(0.1)
        release.set()
        for one, future in zip(sent, away, strict=True):
            assert (await future).replies[0].body == one.body
        assert kinds[0] == {bytes}
        assert kinds[3] == {memoryview}

    with_lanes(folder, work)
