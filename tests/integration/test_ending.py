"""The whole platform takes over settings, and stops, under load: no call is broken in the middle."""

import asyncio
import os
from pathlib import Path

import pytest
from callers import tensor, through_down, under_load
from gauges import gauge
from support import command, register_doubler, running_platform, wait_for

from citybrain.core.errors import InvalidInput

pytestmark = [pytest.mark.platform, pytest.mark.full]
QUICK = ("doubler@1", [tensor("x", 1.0, 2.0, 3.0)])
SLOW = ("gauge@1", [tensor("features", 1.0, 1.0)])


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    """A platform with a quick model and a slow one; the last test ends it."""
    work = tmp_path_factory.mktemp("ending")
    with running_platform(work / "home") as found:
        with found.client() as city:
            register_doubler(city, work, "doubler")
            city.register(gauge(work / "slow", "slow", side=1200, max_batch=1), "gauge")
            for name in ("doubler", "gauge"):
                assert city.deploy(name, "1").state == "running"
        yield found


def test_other_cpus_take_over_without_a_failed_call_and_what_is_not_there_is_refused(plane):
    cores = os.cpu_count()

    def deploy():
        with plane.client() as city:
            with pytest.raises(InvalidInput, match=f"this machine has {cores}"):
                city.deploy("doubler", "1", cpus=cores + 1)
            if not Path("/dev/nvidia0").exists():
                done = command(plane.home.root, "deploy", "doubler@1", "--gpus", "0.5", check=False)
                assert done.returncode == 1
                assert "This machine has no GPU" in done.stderr
            with pytest.raises(InvalidInput, match="never run at once"):
                city.deploy("doubler", "1", replicas=64)
            assert city.deploy("doubler", "1", cpus=cores, wait=300).state in (
                "starting",
                "running",
            )

            def moved():
                (found,) = [d for d in city.deployments() if d.algorithm == "doubler"]
                return found.running["app"] == f"doubler.1.v1.c{cores}"

            wait_for(moved, 120)

    if cores < 2:
        pytest.skip("one core has no more threads to give")
    asyncio.run(under_load(plane, deploy, QUICK))


def test_settings_are_taken_over_without_a_failed_call(plane):
    before = plane.state()["processes"]

    def reload():
        said = {"CITYBRAIN_SERVING__GATEWAYS": "2", "CITYBRAIN_REMOTE__SECONDS": "7"}
        done = command(plane.home.root, "reload", **said).stdout
        assert "CITYBRAIN_SERVING__GATEWAYS (0 → 2)" in done
        assert "Replicas that run keep what they were told; CITYBRAIN_REMOTE__SECONDS" in done

    asyncio.run(under_load(plane, reload, QUICK, SLOW))
    after = plane.state()["processes"]
    assert set(after) == {*before, "gateway-2"}
    assert after["ray"] == before["ray"]
    assert not {after["gateway-1"], after["control"]} & set(before.values())


def test_what_cannot_be_taken_over_is_refused_and_what_up_does_not_take_over_is_named(plane):
    before = plane.state()["processes"]
    done = command(plane.home.root, "reload", check=False, CITYBRAIN_SERVING__RAY_CPUS="3")
    assert done.returncode == 1
    assert "CITYBRAIN_SERVING__RAY_CPUS cannot change while the platform runs" in done.stderr
    up = command(plane.home.root, "up", "--detach", "--port", "1", CITYBRAIN_SERVING__DRAIN="9")
    assert "CITYBRAIN_SERVING__DRAIN (30.0 → 9.0)" in up.stdout
    assert "CITYBRAIN_PORT" in up.stdout
    assert "citybrain reload" in up.stdout
    assert plane.state()["processes"] == before


def test_down_answers_what_is_under_way_and_refuses_the_rest(plane):
    asyncio.run(through_down(plane, QUICK, SLOW))
