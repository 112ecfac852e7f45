"""Releases are judged by the calls that a split drew to them, whoever answered in the end."""

import asyncio
import json
import logging
import time
from collections import Counter

import pytest
from support_door import ADMIN
from support_rollouts import City, failing

from citybrain.core.errors import Conflict, InvalidInput
from citybrain.core.schemas import NewCanary, NewTraffic
from citybrain.serving.gateway.stops import FALLEN
from citybrain.serving.wire import Served, error_reply


@pytest.fixture
def city(tmp_path):
    return City(tmp_path)


@pytest.fixture
def rollouts(city):
    return city.rollouts()


def next_second():
    """Of the second in which a step begins nothing is judged."""
    time.sleep(1.01 - time.time() % 1)


def newest(city):
    return city.traffics.canaries("flow")[0]


async def asleep(calls):
    await asyncio.sleep(3)
    return Served([])


@pytest.mark.parametrize(("answer", "wait"), [(failing, 0), (asleep, 1000)])
def test_a_release_whose_failures_a_fallback_hides_goes_back_all_the_same(
    city, rollouts, answer, wait
):
    city.deploy("stable", 1)
    rollouts.put("flow", NewTraffic(fallback=["stable"], fallback_ms=wait), ADMIN)
    rollouts.start("flow", NewCanary(target="7", steps=[50, 100]), ADMIN)
    city.answers["7"] = answer
    next_second()
    found = city.call_all(60)
    assert Counter((a.route.version, a.instead) for a in found).keys() == {(2, ""), (1, "7")}
    city.load()
    lines = city.usage.days()
    assert sum(line.requests for line in lines) == 60, "a failed attempt is no row of the ledger"
    assert sum(line.failed for line in lines) == 0
    assert {line.version for line in lines} == {1, 2}
    rollouts.step()
    assert (newest(city).state, newest(city).percent) == ("rolled-back", 0)
    assert "calls failed" in newest(city).log[-1].says
    assert city.traffics.get("flow").fallback == ["stable"]


def test_the_base_answers_where_a_release_fails_and_the_release_goes_back(city, rollouts):
    rollouts.start("flow", NewCanary(target="7", steps=[50, 100], fallback=True), ADMIN)
    assert city.traffics.get("flow").fallback == ["champion"]
    city.answers["7"] = failing
    next_second()
    found = city.call_all(60)
    assert {(a.route.version, a.instead) for a in found} == {(2, ""), (2, "7")}
    city.load()
    rollouts.step()
    assert newest(city).state == "rolled-back"
    assert city.traffics.get("flow").fallback == []


def test_a_fallback_that_the_plan_has_is_not_replaced_by_a_canarys_own(city, rollouts):
    city.deploy("stable", 1)
    rollouts.put("flow", NewTraffic(fallback=["stable"]), ADMIN)
    with pytest.raises(Conflict, match="falls back to stable already"):
        rollouts.start("flow", NewCanary(target="7", fallback=True), ADMIN)


def test_a_remote_model_whose_server_is_down_falls_back_too(city, rollouts):
    assert "remote_down" in FALLEN

    async def down(calls):
        return Served([error_reply("remote_down", "no answer", "")] * len(calls))

    city.answers["champion"] = down
    rollouts.put("flow", NewTraffic(fallback=["7"]), ADMIN)
    assert {a.route.version for a in city.call_all(3)} == {7}


def test_calls_that_no_split_drew_say_nothing_about_a_release(city, rollouts):
    new = NewCanary(target="7", steps=[50, 100], seconds=0.01, calls=20, latency_ratio=100)
    rollouts.start("flow", new, ADMIN)
    next_second()
    assert not [a for a in city.call_all(100) if isinstance(a, Exception)]
    city.answers["7"] = failing
    assert all(isinstance(a, Exception) for a in city.call_all(100, ref="flow@7"))
    city.load()
    rollouts.step()
    assert [step.percent for step in newest(city).log] == [50, 100], newest(city).log


def test_what_happens_to_a_release_is_an_event_in_the_log(city, rollouts, caplog):
    caplog.set_level(logging.INFO, "citybrain")
    rollouts.start("flow", NewCanary(target="7", steps=[50, 100]), ADMIN)
    city.answers["7"] = failing
    next_second()
    city.call_all(60)
    city.load()
    rollouts.step()
    rollouts.step()
    events = [
        (record.levelname, json.loads(record.message.removeprefix("event ")))
        for record in caplog.records if record.message.startswith("event ")
    ]  # fmt: skip
    assert [(level, one["event"], one["percent"]) for level, one in events] == [
        ("INFO", "canary.running", 50), ("WARNING", "canary.rolled-back", 0),
    ]  # fmt: skip
    told = events[-1][1]
    assert (told["algorithm"], told["version"], told["base_version"]) == ("flow", 7, 2)
    assert told["canary"] == newest(city).id
    assert "calls failed" in told["says"]
    assert all("\n" not in record.message for record in caplog.records)


def test_two_sides_of_a_split_are_compared_in_words(city, rollouts):
    with pytest.raises(InvalidInput, match="not split"):
        rollouts.compare("flow")
    shares = [{"target": "champion", "percent": 50}, {"target": "7", "percent": 50}]
    rollouts.put("flow", NewTraffic(split=shares), ADMIN)
    next_second()
    city.call_all(4)
    city.load()
    (few,) = rollouts.compare("flow")
    assert "too few calls" in few.failures.says
    assert few.failures.p is None
    city.call_all(300)
    city.load()
    (same,) = rollouts.compare("flow")
    assert (same.base.target, same.other.target) == ("champion", "7")
    assert same.base.calls + same.other.calls == 304
    assert same.failures.p == 1
    assert "no difference in failures shown yet" in same.failures.says
    assert 0 < same.failures.more_calls < 3000
    city.answers["7"] = failing
    city.call_all(60)
    city.load()
    (worse,) = rollouts.compare("flow")
    assert worse.failures.p < 0.001
    assert worse.failures.low > 0.05
    assert worse.failures.says.startswith("champion fails less than 7: 0.00% against ")
    assert worse.failures.says.endswith("p < 0.001")


def test_a_canary_that_went_back_can_be_looked_at_afterwards(city, rollouts):
    rollouts.start("flow", NewCanary(target="7", steps=[50, 100]), ADMIN)
    city.answers["7"] = failing
    next_second()
    city.call_all(80)
    city.load()
    next_second()
    rollouts.step()
    (found,) = rollouts.compare("flow")
    assert found.until == newest(city).moved_at
    assert (found.other.version, found.other.failed) == (7, found.other.calls)
    assert found.failures.says.startswith("champion fails less than 7")
