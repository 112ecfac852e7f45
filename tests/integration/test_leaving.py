"""Gateways that end, or are started anew with other settings, under load: no call is broken."""

import asyncio
import os
import signal

import psutil
import pytest
from callers import tensor, through_down, under_load
from support import wait_for
from support_gateways import gateways
from wires import Wire

X = [tensor("x", 1.0, 2.0, 3.0)]


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    """A quick model, and one whose calls take most of a second."""
    with gateways(tmp_path_factory.mktemp("leaving"), {"quick": 0.0, "slow": 0.7}) as found:
        yield found


def test_the_only_gateway_and_the_control_process_are_started_anew_without_a_failed_call(plane):
    before = plane.state()["processes"]
    act = lambda: plane.reload(SERVING__MAX_QUEUED="77")
    answer = asyncio.run(under_load(plane, act, ("quick@1", X), ("slow@1", X)))
    assert answer["state"] == "done"
    assert answer["changes"] == ["CITYBRAIN_SERVING__MAX_QUEUED (2048 → 77)"]
    after = plane.state()["processes"]
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())
    environment = psutil.Process(after["gateway-1"]).environ()
    assert environment["CITYBRAIN_SERVING__MAX_QUEUED"] == "77"
    assert not psutil.pid_exists(before["gateway-1"])


def test_another_number_of_gateways_is_taken_over_and_what_is_not_said_stays(plane):
    act = lambda: plane.reload(SERVING__GATEWAYS="2")
    asyncio.run(under_load(plane, act, ("quick@1", X), ("slow@1", X)))
    assert set(plane.processes()) == {"gateway-1", "gateway-2"}
    for process_id in plane.processes().values():
        environment = psutil.Process(process_id).environ()
        assert environment["CITYBRAIN_SERVING__MAX_QUEUED"] == "77"


def test_a_gateway_that_is_told_to_end_leaves_its_callers_to_its_sibling(plane):
    first = plane.processes()["gateway-1"]

    def end():
        os.kill(first, signal.SIGTERM)
        wait_for(lambda: not psutil.pid_exists(first))
        wait_for(lambda: plane.processes().get("gateway-1", first) != first, 60)

    asyncio.run(under_load(plane, end, ("quick@1", X), ("slow@1", X)))
    plane.wait_for_gateways(2)


def test_one_that_ends_is_not_ready_and_says_that_its_connections_end(plane):
    """Seen on connections that were there before; the next ones are its sibling's."""
    plane.wait_for_gateways(2)

    async def go():
        wires = [Wire(plane.url, plane.key) for _ in range(24)]
        for wire in wires:
            assert (await wire.ask("/v2/models/quick@1/infer", {"inputs": X}))[0] == 200
        victim = plane.processes()["gateway-2"]
        theirs = {
            (c.raddr.ip, c.raddr.port)
            for c in psutil.Process(victim).net_connections("tcp")
            if c.raddr
        }
        mine = [w for w in wires if w._writer.get_extra_info("sockname")[:2] in theirs]
        assert 0 < len(mine) < len(wires), "the kernel gave all connections to one gateway"
        os.kill(victim, signal.SIGTERM)
        await asyncio.sleep(0.3)
        readers = [(w._reader, w._writer) for w in mine]
        reader, writer = readers[0]
        writer.write(b"GET /v2/health/ready HTTP/1.1\r\nhost: city\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"connection: close" in head.lower()
        for wire in mine[1:]:
            assert (await wire.ask("/v2/models/quick@1/infer", {"inputs": X}))[0] == 200
            assert wire._writer is None, "it did not say that the connection ends"
        for wire in wires:
            wire.close()

        return victim

    victim = asyncio.run(go())
    wait_for(lambda: victim not in plane.processes().values())
    plane.wait_for_gateways(2)


def test_what_cannot_be_taken_over_is_named_and_nothing_is_touched(plane):
    before = plane.state()["processes"]
    for name, value, reason in (
        ("PORT", "1", "cannot change while the platform runs"),
        ("SERVING__RAY_CPUS", "3", "citybrain down"),
        ("DATABASE_URL", "sqlite:////nowhere", "cannot change"),
        ("SERVING__DRAIN", "soon", "SERVING__DRAIN: Input should be a valid number"),
    ):
        answer = plane.reload(**{name: value})
        assert answer["state"] == "failed"
        assert f"CITYBRAIN_{name}" in answer["message"]
        assert reason in answer["message"]
    assert plane.state()["processes"] == before
    answer = plane.reload(REMOTE__SECONDS="7")
    assert answer["state"] == "done"
    assert answer["later"] == ["CITYBRAIN_REMOTE__SECONDS"]


def test_a_gateway_that_does_not_start_anew_leaves_the_old_one_at_work(plane):
    before = plane.state()["processes"]
    more = {"SERVING__MAX_BODY": str(10**30), "SERVING__MAX_QUEUED_BYTES": str(10**31)}
    answer = plane.reload(**more)  # more than gRPC can count
    assert answer["state"] == "failed"
    assert "does not start anew" in answer["message"]
    assert plane.state()["processes"] == before
    assert plane.is_ready()


def test_down_answers_what_is_under_way_and_refuses_the_rest(plane):
    plane.wait_for_gateways(2)
    asyncio.run(through_down(plane, ("quick@1", X), ("slow@1", X)))
    log = (plane.home.logs / "supervisor.log").read_text()
    log += (plane.home.logs / "gateway.log").read_text()
    assert "did not end in time" not in log
    assert "were not answered" not in log
