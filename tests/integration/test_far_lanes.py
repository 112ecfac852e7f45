"""Lanes between nodes, over real TCP and TLS on loopback: the same frames, and nothing for strangers."""

import asyncio
import contextlib
import random
import socket
import ssl
import subprocess
import sys
import threading
import time

import msgspec
import pytest
import uvloop
from support import wait_for

from citybrain.core.home import Home
from citybrain.core.settings import TlsFiles
from citybrain.platform.ray_head import make_ray_secrets, ray_environment
from citybrain.serving.gateway import lanes as gateway_lanes
from citybrain.serving.gateway.lanes import Lanes
from citybrain.serving.lane import MOST_STRANGERS, LaneServer
from citybrain.serving.lane_far import FarLane, FarLanes, TcpDoor
from citybrain.serving.lane_messages import Frame, pack
from citybrain.serving.lane_tls import context
from citybrain.serving.notes import read_notes
from citybrain.serving.wire import Call, Departure, FrameLost, Reply, Served

APP = "flow.champion.v1"


def certificates(folder):
    home = Home(folder).make()
    make_ray_secrets(home)
    said = ray_environment(home)
    return TlsFiles(*(said[f"RAY_TLS_{n}"] for n in ("SERVER_CERT", "SERVER_KEY", "CA_CERT")))


class Board:
    """What Ray keeps for all nodes, in one process."""

    def __init__(self):
        self.lanes = {}

    def put(self, name, lane):
        self.lanes[name] = lane

    def drop(self, name):
        self.lanes.pop(name, None)

    def all(self):
        return dict(self.lanes)


class World:
    """A folder of lanes, a board, and a control process that brings one to the other."""

    def __init__(self, tmp_path):
        self.folder, self.board = tmp_path / "lanes", Board()
        self.ours = certificates(tmp_path / "home")
        self.theirs = certificates(tmp_path / "other")
        self.far = FarLanes(self.board, self.folder)
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self):
        while not self.stop.wait(0.05):
            self.far.look()

    def close(self):
        self.stop.set()
        self._thread.join()

    def replica(self, answer=None, files=None, host="127.0.0.1", app=APP):
        door = TcpDoor(self.board, app, host, "node 2", files or self.ours)
        found = LaneServer(door, answer or echo)
        found.announce()
        return found

    def address(self):
        (lane,) = self.board.lanes.values()
        return lane.host, lane.port

    def gateway(self, work, files=None, run=uvloop.run):
        """Run a coroutine with a gateway's lanes."""

        async def go():
            lanes = Lanes(self.folder, files or self.ours)
            keeper = asyncio.create_task(lanes.keep())
            try:
                return await asyncio.wait_for(work(lanes), 60)
            finally:
                keeper.cancel()
                await asyncio.gather(keeper, return_exceptions=True)
                await asyncio.sleep(0.01)

        return run(go())


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(gateway_lanes, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(gateway_lanes, "REACH_SECONDS", 1.0)
    found = World(tmp_path)
    yield found
    found.close()


def call(text):
    return Call("oip", text.encode(), -1, "", text)


def echo(calls, _errand=None):
    return Served([Reply(bytes(c.body), c.header_length, 1, "", "") for c in calls], 0.25, 0.5, 0.1)


async def until(condition, seconds=60):
    for _ in range(int(seconds / 0.02)):
        if found := condition():
            return found
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come")


async def fine(lanes):
    lane = await until(lambda: lanes.idlest(APP))
    return (await lane.send([call("fine")])).replies[0].body == b"fine"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("run", [uvloop.run, asyncio.run])
def test_frames_of_any_size_come_back_whole_and_to_the_right_caller(world, run, host):
    """From two gateways at once, to two replicas."""
    seen = [set(), set()]

    def noting(number):
        def answer(calls, _errand):
            seen[number].add(threading.get_ident())
            return echo(calls)

        return answer

    replicas = [world.replica(noting(number), host=host) for number in range(2)]
    draw = random.Random(5)

    async def work(lanes):
        await until(lambda: lanes.count(APP) == 2)

        async def one(number):
            calls = [
                call(f"{number}:{part}:" + "x" * draw.choice([0, 10, 1000, 200_000]))
                for part in range(draw.randint(1, 8))
            ]
            served = await lanes.idlest(APP).send(calls)
            assert [r.body for r in served.replies] == [c.body for c in calls]
            assert (served.waited, served.worked, served.modelled) == (0.25, 0.5, 0.1)

        for batch in range(8):
            await asyncio.gather(*[one(batch * 30 + n) for n in range(30)])
        big = call("b" * 30_000_000)
        assert (await lanes.idlest(APP).send([big])).replies[0].body == big.body

    errors = []

    def gateway():
        try:
            world.gateway(work, run=run)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=gateway) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [len(threads) for threads in seen] == [2, 2], "each replica has a thread a gateway"
    for replica in replicas:
        replica.withdraw()


def test_a_withdrawn_lane_answers_what_it_has_and_is_not_found_again(world):
    begun = threading.Event()

    def slow(calls, _errand):
        begun.set()
        time.sleep(0.2)
        return echo(calls)

    replica = world.replica(slow)

    async def work(lanes):
        lane = await until(lambda: lanes.idlest(APP))
        away = [lane.send([call(str(n))]) for n in range(3)]
        await asyncio.to_thread(begun.wait)
        ending = asyncio.create_task(asyncio.to_thread(replica.withdraw))
        await until(lambda: lanes.idlest(APP) is None)
        answers = await asyncio.gather(*away)
        assert [served.replies[0].body for served in answers] == [b"0", b"1", b"2"]
        await asyncio.wait_for(ending, 5)
        await until(lambda: not list(world.folder.iterdir()))
        assert world.board.lanes == {}
        assert lanes.idlest(APP) is None

    world.gateway(work)


def test_a_frame_is_asked_back_and_another_read_while_one_runs(world):
    begun, seen = threading.Event(), []

    def answer(calls, errand):
        seen.append(calls[0].request_id)
        begun.set()
        if len(seen) == 1:
            while not errand.asked:
                time.sleep(0.005)
        return echo(calls)

    world.replica(answer)

    async def work(lanes):
        lane = await until(lambda: lanes.idlest(APP))
        running, waiting, last = (lane.send([call(str(n))]) for n in range(3))
        await asyncio.to_thread(begun.wait)
        waiting.cancel()
        await asyncio.wait([waiting], timeout=5)
        assert waiting.cancelled()
        running.cancel()
        await asyncio.wait([running], timeout=5)
        assert running.cancelled()
        assert (await last).replies[0].body == b"2"
        assert seen == ["0", "2"]

    world.gateway(work)


def hello(sock):
    """A whole frame, as far as a stranger gets; what came back."""
    sock.settimeout(10)
    frame = Frame(1, [call("stranger")], Departure(time.perf_counter()))
    with contextlib.suppress(OSError):
        sock.sendall(pack(msgspec.msgpack.Encoder(), frame))
        return sock.recv(100)
    return b""


def test_strangers_get_no_answer(world):
    """In plain text, without a certificate, and with one that somebody else signed."""
    seen = []

    def answer(calls, _errand):
        seen.extend(c.request_id for c in calls)
        return echo(calls)

    world.replica(answer)
    address = world.address()
    with socket.create_connection(address, timeout=10) as plain:
        found = hello(plain)
        assert found == b"" or found[0] == 21, "an alert of TLS at most"
    anonymous = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anonymous.load_verify_locations(world.ours.authority)
    borrowed = world.theirs._replace(authority=world.ours.authority)
    old = context(world.ours, server=False)
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    for theirs in (anonymous, context(borrowed, server=False), old):
        with contextlib.suppress(ssl.SSLError, ConnectionResetError):
            with socket.create_connection(address, timeout=10) as raw:
                with theirs.wrap_socket(raw, server_hostname="127.0.0.1") as sock:
                    assert hello(sock) == b""
    assert world.gateway(fine)
    assert seen == ["fine"]


@pytest.mark.parametrize("what", ["authority", "address"])
def test_a_gateway_sends_nothing_to_a_replica_that_is_not_whom_it_called(world, what, caplog):
    """Its certificate is of another authority, or for other addresses than it listens on."""
    if what == "authority":
        world.replica(files=world.theirs)
    else:
        world.replica(host="127.0.0.2")

    async def work(lanes):
        await until(lambda: "cannot be reached" in caplog.text)
        assert lanes.idlest(APP) is None
        world.replica()
        assert await fine(lanes)
        assert lanes.count(APP) == 1

    world.gateway(work)
    assert "CERTIFICATE_VERIFY_FAILED" in caplog.text


def test_a_gateway_without_certificates_says_so(world, caplog):
    world.replica()

    async def work(_):
        none = Lanes(world.folder)
        await until(lambda: list(world.folder.iterdir()))
        await none.look()
        await until(lambda: "has no certificate" in caplog.text)

    world.gateway(work)


def test_those_who_never_say_who_they_are_keep_nobody_out_for_long(world):
    world.replica()
    silent = [socket.create_connection(world.address()) for _ in range(MOST_STRANGERS + 8)]
    assert world.gateway(fine)
    for one in silent:
        one.settimeout(10)
        assert one.recv(1) == b"", "it was hung up on"
        one.close()


KILLED = """
import sys, threading
from citybrain.core.settings import TlsFiles
from citybrain.serving.lane import LaneServer
from citybrain.serving.lane_far import TcpDoor
from citybrain.serving.wire import Served

class Printed:
    def put(self, name, lane):
        print(name, lane.port, flush=True)

def answer(calls, errand):
    threading.Event().wait()

LaneServer(TcpDoor(Printed(), "flow.champion.v1", "127.0.0.1", "node 2", TlsFiles(*sys.argv[1:])), answer).announce()
threading.Event().wait()
"""


def test_a_replica_that_is_killed_loses_its_frames_and_its_place_on_the_board(world):
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", KILLED, *world.ours], stdout=subprocess.PIPE, text=True
    )
    name, port = process.stdout.readline().split()
    world.board.put(name, FarLane("127.0.0.1", int(port), "node 2"))

    async def work(lanes):
        away = (await until(lambda: lanes.idlest(APP))).send([call("1")])
        await asyncio.sleep(0.1)
        process.kill()
        with pytest.raises(FrameLost):
            await away
        await until(lambda: not world.board.lanes and not list(world.folder.iterdir()))
        world.replica()
        assert await fine(lanes)

    try:
        world.gateway(work)
    finally:
        process.kill()
        process.communicate()


def test_what_a_far_replica_says_of_itself_is_read_like_that_of_others(world):
    replica = world.replica()

    def said():
        return list(read_notes(world.folder).values())

    replica.door.say("its server is silent")
    wait_for(lambda: said() == ["its server is silent"], 10, 0.02)
    replica.door.say("")
    wait_for(lambda: list(world.folder.iterdir()) and said() == [], 10, 0.02)


def test_a_control_process_that_starts_anew_shows_what_lives_and_removes_what_does_not(world):
    world.close()
    world.replica()
    world.far.look()
    (name,) = world.board.lanes
    gone = world.folder / name.replace(name[:4], "0000")
    gone.write_bytes((world.folder / name).read_bytes())
    (world.folder / name).unlink()
    world.board.put("../evil.lane", world.board.lanes[name])
    FarLanes(world.board, world.folder).look()
    assert [path.name for path in world.folder.glob("*.lane")] == [name]
    assert not (world.folder.parent / "evil.lane").exists()
