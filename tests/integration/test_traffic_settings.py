"""Every part of a plan for live calls changes what happens to calls, or is refused with its reason."""

import asyncio
import math
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from support_door import ADMIN
from support_rollouts import City, failing

from citybrain.core.errors import CityBrainError
from citybrain.core.names import Ref
from citybrain.core.schemas import NewCanary, NewTraffic
from citybrain.serving.rollout.judge import Window, judge
from citybrain.serving.wire import Served
from citybrain.storage.records.draws import Arm

RUNNING = {
    "champion": (2, {}), "7": (7, {}), "stable": (1, {}), "twin": (2, {}),
    "private": (8, {"level": "personal"}), "pipe": (9, {"plan": {"steps": [{"name": "one", "value": 1}]}}),
}  # fmt: skip
TARGETS = st.sampled_from([*RUNNING, *RUNNING, "gone"])
PERCENT = st.one_of(st.sampled_from([0, 10, 30, 50, 50, 100]), st.floats())
SPLIT = st.one_of(
    st.just([]),
    st.builds(lambda t: [{"target": t, "percent": 100}], TARGETS),
    st.builds(
        lambda two, p: [{"target": two[0], "percent": p}, {"target": two[1], "percent": 100 - p}],
        st.permutations([*RUNNING]), PERCENT,
    ),
)  # fmt: skip
FALLBACK = st.fixed_dictionaries(
    {"fallback": st.lists(TARGETS, max_size=2)},
    optional={"fallback_ms": st.sampled_from([0, 300, 300, 59_000, 60_000, 600_000, -1])},
)
SHADOW = st.fixed_dictionaries(
    {"shadow": TARGETS, "shadow_percent": st.sampled_from([0, 50, 100, 100])}
)
PLAN = st.builds(
    lambda split, *parts: {"split": split} | parts[0] | parts[1],
    SPLIT, st.one_of(st.just({}), FALLBACK), st.one_of(st.just({}), SHADOW),
)  # fmt: skip
CALLS = 160
"""Enough that a share of 10 % is met: by 1 of 20 million draws it is not."""


async def asleep(calls):
    await asyncio.sleep(2)
    return Served([])


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    found = City(tmp_path_factory.mktemp("city"))
    for target, (version, more) in RUNNING.items():
        found.deploy(target, version, **more)
    return found


def answered(city, **answers):
    """Who answered each call, and instead of whom, while some deployments do not answer."""
    city.answers = answers
    city.seen.clear()
    found = [a for a in city.call_all(CALLS) if not isinstance(a, Exception)]
    return Counter((a.route.target, a.instead) for a in found)


def others(new, target):
    """The share of calls that others than this one are asked for first; 0: nothing is split."""
    return sum(share.percent for share in new.split if share.target != target)


def test_every_part_of_a_plan_takes_effect_or_is_refused(city):
    rollouts, outcomes = city.rollouts(), Counter()

    @settings(
        max_examples=400, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(PLAN)
    def check(said):
        try:
            new = NewTraffic.model_validate(said)
            rollouts.put("flow", new, ADMIN)
        except (ValidationError, CityBrainError) as error:
            assert str(error)
            outcomes["refused"] += 1
            return
        city.directory.load()
        reached = {city.directory.route(Ref("flow"), str(n)).target for n in range(3000)}
        wanted = {share.target for share in new.split if share.percent >= 1}
        assert wanted <= reached
        assert reached <= {share.target for share in new.split} or not new.split
        outcomes["split"] += bool(new.split)
        everybody = dict.fromkeys(RUNNING, failing)
        for target in new.fallback:  # each of them answers somebody when all others fail
            if "pipe" in (*new.fallback, *reached) or 0 < min(others(new, target), 10) < 10:
                continue  # its steps are not here; or too few calls go elsewhere to be seen here
            assert any(instead for _, instead in answered(city, **everybody | {target: None}))
            outcomes["fallback"] += 1
        if new.fallback_ms:
            assert new.fallback_ms < 60_000 or "pipe" in reached
            if new.fallback_ms == 300 and "pipe" not in (*new.fallback, *reached):
                often = {share.target for share in new.split if share.percent >= 10} or reached
                slow = dict.fromkeys(often - set(new.fallback), asleep)
                assert not slow or any(instead for _, instead in answered(city, **slow))
                outcomes["fallback_ms"] += 1
        if new.shadow and "pipe" not in reached:
            alone = answered(city)
            assert city.seen[new.shadow] > sum(n for (t, _), n in alone.items() if t == new.shadow)
            assert new.shadow not in ("pipe", "private")
            assert (
                RUNNING[new.shadow][0] not in {RUNNING[t][0] for t in reached} or len(reached) > 1
            )
            outcomes["shadow"] += 1

    check()
    assert min(outcomes[part] for part in ("refused", "split", "fallback", "shadow")) >= 5, outcomes
    city.traffics.put("flow", NewTraffic(), ADMIN)


CANARY = st.fixed_dictionaries(
    {"target": TARGETS},
    optional={
        "base": TARGETS,
        "steps": st.one_of(
            st.sampled_from([[5, 50, 100], [100], [99.5]]), st.lists(st.floats(), max_size=3)
        ),
        "seconds": st.one_of(st.floats(1, 1000), st.floats()),
        "calls": st.sampled_from([0, 1, 19, 20, 50, 1000, 100_000]),
        "error_margin": st.one_of(st.sampled_from([0, 0.02, 0.9, 0.99, 1]), st.floats()),
        "latency_ratio": st.one_of(st.floats(1, 10), st.floats()),
        "fallback": st.booleans(),
    },
)  # fmt: skip


def test_every_part_of_a_canary_takes_effect_or_is_refused(city):
    rollouts, outcomes = city.rollouts(), Counter()

    @settings(
        max_examples=300, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(CANARY)
    def check(said):
        try:
            new = NewCanary.model_validate(said)
            canary = rollouts.start("flow", new, ADMIN)
        except (ValidationError, CityBrainError) as error:
            assert str(error)
            outcomes["refused"] += 1
            return
        outcomes["begun"] += 1
        try:
            assert canary.version != canary.base_version
            traffic = city.traffics.get("flow")
            shares = {share.target: share.percent for share in traffic.split}
            assert shares == {new.target: new.steps[0], new.base: 100 - new.steps[0]}
            assert traffic.fallback == ([new.base] if new.fallback else [])
        finally:
            rollouts.stop("flow", ADMIN)
        assert city.traffics.get("flow").fallback == []
        base, calls = Arm(1000, 0, 5.0, 9.0), new.calls

        def verdict(failed=0, times=1.0, seen=calls, seconds=new.seconds):
            arm = Arm(seen, failed, 5.0 * times, 9.0 * times)
            return judge(new, Window(base, arm, seconds)).act

        assert verdict() == "forward"
        assert verdict(seen=calls - 1) == "wait"
        assert verdict(seconds=math.nextafter(new.seconds, 0)) == "wait"
        assert verdict(failed=calls) == "back", (
            "no margin lets a release pass that fails every call"
        )
        slower = max(1.01 * new.latency_ratio, 1.5)
        assert verdict(times=slower) == "back"
        assert verdict(times=0.99 * new.latency_ratio) == "forward"

    check()
    assert min(outcomes.values()) >= 20, outcomes


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"fallback": ["champion"]}, "fall back to itself"),
        ({"split": [{"target": "7", "percent": 100}], "fallback": ["7"]}, "fall back to itself"),
        ({"fallback": ["gone"]}, "does not run"),
        ({"fallback": ["7"], "fallback_ms": 60_000}, "given up after 30 s"),
        ({"split": [{"target": "gone", "percent": 100}]}, "does not run"),
        ({"shadow": "champion", "shadow_percent": 5}, "answers callers already"),
        ({"shadow": "twin", "shadow_percent": 5}, "would say nothing"),
        ({"shadow": "private", "shadow_percent": 5}, "personal data"),
        ({"split": [{"target": "private", "percent": 100}], "shadow": "7", "shadow_percent": 5}, "personal data"),
        ({"shadow": "pipe", "shadow_percent": 5}, "is a pipeline"),
    ],
)  # fmt: skip
def test_a_plan_that_would_change_nothing_is_refused_in_words(city, said, reason):
    with pytest.raises(CityBrainError, match=reason):
        city.rollouts().put("flow", NewTraffic(**said), ADMIN)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"target": "champion"}, "same version"),
        ({"target": "twin"}, "same version"),
        ({"target": "gone"}, "does not run yet"),
        ({"target": "7", "base": "gone"}, "nothing to compare with"),
        ({"target": "7", "error_margin": 0.9, "calls": 20}, "would pass an error_margin of 0.9"),
        ({"target": "7", "calls": 19}, "greater than or equal to 20"),
        ({"target": "7", "error_margin": 1}, "less than 1"),
        ({"target": "7", "steps": [float("nan")]}, "must grow"),
    ],
)
def test_a_canary_that_could_not_be_judged_is_refused_in_words(city, said, reason):
    with pytest.raises((CityBrainError, ValidationError), match=reason):
        city.rollouts().start("flow", NewCanary(**said), ADMIN)


def test_a_shadow_becomes_no_side_of_a_canary(city):
    rollouts = city.rollouts()
    rollouts.put("flow", NewTraffic(shadow="7", shadow_percent=100), ADMIN)
    with pytest.raises(CityBrainError, match="7 is the shadow"):
        rollouts.start("flow", NewCanary(target="7"), ADMIN)
    rollouts.put("flow", NewTraffic(), ADMIN)
