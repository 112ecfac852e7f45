"""Releases on live calls of a real platform: a good one passes, bad ones go back, no call is lost."""

import asyncio
import json
import os
import threading
import time
from collections import Counter

import pytest
from gauges import DEADLY, gauge
from support import command, wait_for
from wires import Wire

from citybrain.core.errors import CityBrainError
from citybrain.core.schemas import NewCanary, NewDeployment, NewTraffic

SEED = os.environ.get("ROLLOUT_SEED", "1")
TARGETS = ("1", "2", "3", "4")
PREDICT = "/v1/algorithms/gauge/predict"
QUICK = {"steps": [20, 60], "seconds": 1, "calls": 40}


class Callers:
    """Two clients that call without pause, and what they were answered."""

    def __init__(self, platform, first):
        self.platform = platform
        self.body = {"inputs": [{"features": {"x": first, "y": 1.0}}]}
        self.codes = Counter()
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self._call, daemon=True) for _ in range(2)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join(30)

    def _call(self):
        with self.platform.client() as city:
            while not self.stop.is_set():
                try:
                    found = city.call("POST", "/v1/algorithms/gauge/predict", json=self.body)
                    self.codes[found["version"]] += 1
                except CityBrainError as error:
                    self.codes[error.code] += 1


@pytest.fixture(scope="module")
def releases(platform, tmp_path_factory):
    """Version 1 is good, 2 fails where the first number is 0, 3 is slow, 4 dies of DEADLY; all run."""
    work = tmp_path_factory.mktemp("gauge")
    with platform.client() as city:
        for kind in ("good", "nan", "slow", "crash"):
            city.register(gauge(work / kind, kind), "gauge")
        for target in TARGETS:
            body = NewDeployment(target=target).model_dump()
            city.call("PUT", "/api/v1/deployments/gauge", json=body)
        for target in TARGETS:
            assert city.deploy("gauge", target).state == "running"
        city.set_traffic("gauge", NewTraffic(split=[{"target": "1", "percent": 100}]))
        wait_for(lambda: city.call("GET", "/v2/models/gauge/versions/4/ready")["ready"])
        city.set_traffic("gauge", NewTraffic())
        yield city
        city.set_traffic("gauge", NewTraffic())
        for target in TARGETS:
            city.undeploy("gauge", target)


def tried(city, target):
    """A canary of this version beside version 1, when it has ended."""
    city.canary("gauge", NewCanary(target=target, base="1", **QUICK))
    return wait_for(
        lambda: (found := city.canaries("gauge")[0]).state != "running" and found, seconds=60
    )


def test_a_release_that_holds_passes_and_its_calls_lose_nothing(releases, platform):
    with Callers(platform, first=1.0) as callers:
        found = tried(releases, "2")
        assert (found.state, found.percent) == ("passed", 60), found.log
        wait_for(lambda: callers.codes[2] > 50)
    assert set(callers.codes) <= {1, 2}, callers.codes
    assert releases.stop_canary("gauge").state == "stopped"


def events(platform, canary):
    """What the control process's log says of a canary."""
    lines = (platform.home.logs / "control.log").read_text().splitlines()
    found = [json.loads(line.partition(": event ")[2]) for line in lines if ": event {" in line]
    return [one for one in found if one.get("canary") == canary.id]


@pytest.mark.parametrize(
    ("target", "first", "reason"),
    [("2", 0.0, "calls failed"), ("3", 1.0, "ms"), ("4", DEADLY, "calls failed")],
)
def test_a_bad_release_is_back_at_nothing_within_a_minute_and_an_event_says_why(
    releases, platform, target, first, reason
):
    with Callers(platform, first) as callers:
        wait_for(lambda: callers.codes[1] > 50)
        found = tried(releases, target)
        assert (found.state, found.percent) == ("rolled-back", 0)
        assert reason in found.log[-1].says
        assert releases.traffic("gauge").split == []
        took = (found.moved_at - found.created_at).total_seconds()
        print({"version": target, "seconds": round(took, 1), "says": found.log[-1].says})
        assert took < 60
        before = Counter(callers.codes)
        wait_for(lambda: callers.codes[1] > before[1] + 100)
    acts = [entry.action for entry in platform.audit() if entry.detail.get("canary") == found.id]
    assert acts[0] == "canary.rolled-back"
    assert [(e["event"], e["percent"]) for e in events(platform, found)] == [
        ("canary.running", 20), ("canary.rolled-back", 0),
    ]  # fmt: skip
    listed = command(platform.home.root, "canary").stdout
    assert "rolled-back" in listed

    (told,) = releases.comparison("gauge")
    assert told.other.version == int(target)
    # A release that is back after a second or two has few whole seconds to be compared in.
    few = ("too few calls",)
    if target == "2":
        assert told.failures.says.startswith(
            ("1 fails less than 2: 0.00% against 100.00%", *few)
        ), told
    if target == "3":
        assert told.latency.says.startswith(("3 is slower than 1", *few)), told


def test_a_fallback_answers_where_a_release_fails(releases, platform):
    releases.set_traffic(
        "gauge", NewTraffic(split=[{"target": "2", "percent": 100}], fallback=["1"])
    )
    with Callers(platform, first=0.0) as callers:
        wait_for(lambda: callers.codes[1] > 50)  # the gateways have seen it
        before = Counter(callers.codes)
        wait_for(lambda: callers.codes[1] > before[1] + 100)
    assert set(callers.codes - before) == {1}, callers.codes - before
    releases.set_traffic("gauge", NewTraffic())


CALLS = 2_000


def test_a_tenth_of_the_calls_is_a_tenth_and_sticky_and_every_one_is_counted(releases, platform):
    """10 % ± 2 % of 2,000 calls, by session and without one; whoever met the release meets it again."""
    plan = NewCanary(target="2", base="1", steps=[10], seconds=3600, latency_ratio=100)
    releases.canary("gauge", plan)
    body = {"inputs": [{"features": {"x": 1.0, "y": 1.0}}]}

    async def ask(numbers, sticky):
        met, waiting = {}, list(numbers)

        async def caller():
            wire = Wire(platform.url, platform.key)
            while waiting:
                number = waiting.pop()
                more = f"x-sticky-key: session-{SEED}-{number}\r\n" if sticky else ""
                status, answer = await wire.ask(PREDICT, body, more)
                assert status == 200, answer
                met[number] = answer["version"]
            wire.close()

        await asyncio.gather(*(caller() for _ in range(8)))
        return met

    try:

        def begun():
            """Some calls are the release's, and no longer all, as in the plan before this one."""
            met = Counter(asyncio.run(ask(range(100), sticky=True)).values())
            return 0 < met[2] < 50

        wait_for(begun, seconds=20)
        time.sleep(1)  # the other gateways, too
        by_session = asyncio.run(ask(range(CALLS), sticky=True))
        by_lot = asyncio.run(ask(range(CALLS), sticky=False))
        again = asyncio.run(ask(range(0, CALLS, 4), sticky=True))
        for met in (by_session, by_lot):
            assert 0.08 * CALLS <= Counter(met.values())[2] <= 0.12 * CALLS, Counter(met.values())
        assert all(by_session[number] == version for number, version in again.items())

        def counted():
            (told,) = releases.comparison("gauge")
            return told if told.base.calls + told.other.calls >= len(again) + 2 * CALLS else None

        told = wait_for(counted, seconds=20)
        assert (told.base.failed, told.other.failed) == (0, 0)
        assert told.other.calls >= Counter([*by_lot.values(), *by_session.values()])[2]
        report = command(platform.home.root, "canary", "gauge", "--report").stdout
        assert "no difference in failures shown yet" in report
    finally:
        releases.stop_canary("gauge")
