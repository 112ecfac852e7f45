"""Frames over a replica's own socket: right answers, a polite end, and nothing from strangers."""

import asyncio
import os
import random
import threading
import time

import pytest
import uvloop

from citybrain.core.errors import Unavailable
from citybrain.serving.gateway import lanes as gateway_lanes
from citybrain.serving.gateway.lanes import LaneBroken, Lanes
from citybrain.serving.lane import SUFFIX, LaneServer, prefix
from citybrain.serving.wire import Call, Reply


def call(text):
    return Call("oip", text.encode(), -1, "", text)


def echo(calls):
    return [Reply(c.body, c.header_length, 1, "", "") for c in calls]


class Replica:
    """What a replica does with its lane."""

    def __init__(self, folder, app="flow.champion.v1", answer=echo):
        self.lane = LaneServer(folder, app, answer)
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
    for _ in range(500):
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
            replies = await lanes.idlest("flow.champion.v1").send(calls)
            assert [r.body for r in replies] == [c.body for c in calls]

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

    def slow(calls):
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

    def slow(calls):
        begun.set()
        time.sleep(0.2)
        return echo(calls)

    replica = Replica(folder, answer=slow)

    async def work(lanes):
        away = [lanes.idlest("flow.champion.v1").send([call(str(n))]) for n in range(3)]
        await asyncio.to_thread(begun.wait)
        ending = asyncio.create_task(asyncio.to_thread(replica.lane.withdraw))
        await until(lambda: lanes.idlest("flow.champion.v1") is None)
        replies = await asyncio.gather(*away)
        assert [r[0].body for r in replies] == [b"0", b"1", b"2"]
        begin = time.monotonic()
        await ending
        assert time.monotonic() - begin < 5, "it waited for gateways that had hung up"
        assert list(folder.iterdir()) == []

    with_lanes(folder, work)


def test_a_lane_that_breaks_fails_what_was_away_and_a_new_one_is_found(folder):
    def die(calls):
        raise OSError("gone")

    Replica(folder, answer=die)

    async def work(lanes):
        with pytest.raises(LaneBroken):
            await lanes.idlest("flow.champion.v1").send([call("1")])
        assert lanes.idlest("flow.champion.v1") is None
        Replica(folder)
        await until(lambda: lanes.idlest("flow.champion.v1"))

        async def answered():
            try:
                return await lanes.idlest("flow.champion.v1").send([call("2")])
            except LaneBroken:  # the first one is still there and may be found again
                return None

        found = [await answered() for _ in range(20)]
        assert any(found)

    with_lanes(folder, work)


def test_a_name_without_a_replica_behind_it_is_cleared_away(folder):
    import socket

    folder.mkdir(mode=0o700)
    path = folder / f"{prefix('flow.champion.v1')}dead{SUFFIX}"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
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
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(junk)
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        (reply,) = await lanes.idlest("flow.champion.v1").send([call("fine")])
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
        server = await asyncio.start_unix_server(replica, str(path))
        await until(lambda: lanes.idlest("flow.champion.v1"))
        with pytest.raises(LaneBroken):
            await lanes.idlest("flow.champion.v1").send([call("1")])
        server.close()

    with_lanes(folder, work)


def test_a_folder_that_others_can_enter_is_refused(folder):
    folder.mkdir(mode=0o700)
    folder.chmod(0o755)
    with pytest.raises(Unavailable, match="entered by others"):
        Lanes(folder)
    folder.rmdir()
    os.symlink("/tmp", folder)
    with pytest.raises(Unavailable, match="entered by others"):
        LaneServer(folder, "flow.champion.v1", echo)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_another_user_is_not_served(tmp_path, monkeypatch):
    """Even with the folder's mode out of the way."""
    monkeypatch.setattr("citybrain.serving.lane.private_folder", lambda folder: folder)
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
