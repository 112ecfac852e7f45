"""Deployments that follow the load on a real platform: up, down, to nothing and back; nobody is lost."""

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from gauges import gauge
from support import wait_for

from citybrain.core.errors import CityBrainError
from citybrain.core.schemas import Scaling

pytestmark = pytest.mark.platform
BODY = {"inputs": [{"features": {"x": 1.0, "y": 1.0}}]}
FIRST = 20
"""Callers who come at once while no replica runs."""


class Callers:
    """So many clients that call without pause, and what they were answered."""

    def __init__(self, platform, count):
        self.platform = platform
        self.codes = Counter()
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self._call, daemon=True) for _ in range(count)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join(40)

    def _call(self):
        with self.platform.client() as city:
            while not self.stop.is_set():
                self.codes[ask(city)] += 1


def ask(city):
    """`ok`, or the code of the error."""
    try:
        city.call("POST", "/v1/algorithms/tide/predict", json=BODY)
    except CityBrainError as error:
        return error.code
    return "ok"


@pytest.fixture(scope="module")
def city(platform, tmp_path_factory):
    """The model is registered; each test deploys it in its own way."""
    with platform.client() as found:
        found.register(
            gauge(tmp_path_factory.mktemp("tide") / "tide", "slow", "tide", side=700), "tide"
        )
        yield found
        found.undeploy("tide", "1")


def running(city):
    (found,) = [d for d in city.deployments() if d.algorithm == "tide"]
    return found


@pytest.mark.full
def test_replicas_are_added_under_load_and_taken_down_after_it_and_no_call_is_lost(city, platform):
    scaling = Scaling(min_replicas=1, max_replicas=3, up_after=1, down_after=3)
    assert city.deploy("tide", "1", scaling=scaling).state == "running"
    wait_for(lambda: ask(city) == "ok")
    wait_for(lambda: running(city).running_replicas == 1)
    with Callers(platform, 8) as callers:
        wait_for(lambda: running(city).running_replicas >= 2)
        answered = callers.codes["ok"]
        wait_for(lambda: callers.codes["ok"] > answered + 50)
    with Callers(platform, 1) as lonely:  # one who waits for each answer is served by one replica
        wait_for(lambda: running(city).running_replicas == 1, seconds=90)
    assert set(callers.codes) | set(lonely.codes) == {"ok"}
    answer = httpx.get(
        f"{platform.url}/metrics", headers={"authorization": f"Bearer {platform.key}"}
    )
    assert 'citybrain_replicas{algorithm="tide",target="1"} 1.0' in answer.text


def test_a_deployment_sleeps_and_the_first_callers_wake_it_and_are_all_answered(city, platform):
    scaling = Scaling(min_replicas=0, max_replicas=2, sleep_after=2, up_after=1, down_after=2)
    assert city.deploy("tide", "1", scaling=scaling).state == "running"
    for _ in range(2):
        asleep = wait_for(lambda: (found := running(city)).asleep and found, seconds=90)
        assert (asleep.state, asleep.running_replicas) == ("running", 0)
        assert city.status().ready
        assert city.call("GET", "/v2/models/tide/versions/1/ready")["ready"]
        began = time.monotonic()
        with ThreadPoolExecutor(FIRST) as pool:
            with platform.client() as first:
                codes = list(pool.map(lambda _: ask(first), range(FIRST)))
        assert Counter(codes) == {"ok": FIRST}
        assert time.monotonic() - began < 30
        wait_for(lambda: running(city).running_replicas)


@pytest.mark.full
def test_a_job_wakes_what_sleeps_and_keeps_it_awake(city, tmp_path):
    wait_for(lambda: running(city).asleep, seconds=90)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"features": {"x": 1.0, "y": 1.0}}\n' * 5)
    done = city.wait_for_job(city.submit_job("tide@1", rows).id)
    assert (done.state, done.done, done.failed) == ("done", 5, 0)


def test_who_cannot_wait_for_a_replica_gets_an_answer_in_time(city):
    wait_for(lambda: running(city).asleep, seconds=90)
    began = time.monotonic()
    with pytest.raises(CityBrainError) as refused:
        city.call("POST", "/v1/algorithms/tide/predict", json=BODY,
                  headers={"x-request-timeout-ms": "300"})  # fmt: skip
    assert refused.value.code == "deadline_exceeded"
    assert time.monotonic() - began < 2
    wait_for(lambda: running(city).running_replicas, seconds=60)  # woken for the next one
    assert ask(city) == "ok"
