"""What is said about two sides of a split is true about as often as it is said."""

import random

import numpy as np
import pytest

from citybrain.core.schemas.comparisons import Side
from citybrain.serving.rollout.comparison import failures, latency
from citybrain.serving.rollout.judge import wilson


def side(target, failed, calls):
    return Side(target=target, version=1, calls=calls, failed=failed, p50_ms=1, p95_ms=2)


def drawn(rng, target, share, calls):
    return side(target, int(rng.binomial(calls, share)), calls)


def test_the_interval_of_a_share_is_wilsons():
    assert wilson(10, 100) == pytest.approx((0.0552, 0.1744), abs=1e-4)
    assert wilson(0, 50) == pytest.approx((0, 0.0713), abs=1e-4)


def test_the_interval_of_a_difference_is_newcombes():
    """His example (1998, table II): 56 of 70 and 48 of 80."""
    found = failures(side("b", 48, 80), side("a", 56, 70), 0.02)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert found.says == "b fails less than a: 60.00% against 80.00%, p = 0.013"


def test_sides_that_are_equal_are_seldom_called_different():
    rng = np.random.default_rng(1)
    found = [
        failures(drawn(rng, "a", 0.05, 300), drawn(rng, "b", 0.05, 300), 0.02) for _ in range(200)
    ]
    assert sum(one.p < 0.05 for one in found) <= 16
    assert sum(not one.low <= 0 <= one.high for one in found) <= 20


@pytest.mark.parametrize(("share", "part"), [(0.0, 0.5), (0.01, 0.5), (0.05, 0.1)])
def test_the_calls_that_it_asks_for_show_the_difference_that_it_names(share, part):
    rng = np.random.default_rng(2)
    calls = 400
    before = side("a", int(share * calls * (1 - part)), int(calls * (1 - part)))
    now = failures(before, side("b", int(share * calls * part), int(calls * part)), 0.02)
    assert now.more_calls > 0
    assert f"about {now.more_calls:,} more calls" in now.says
    calls += now.more_calls
    shown = 0
    for _ in range(100):
        later = failures(
            drawn(rng, "a", share, int(calls * (1 - part))),
            drawn(rng, "b", share + 0.02, int(calls * part)),
            0.02,
        )
        shown += later.says.startswith("a fails less than b")
    assert shown >= 70


def test_enough_equal_calls_say_that_there_is_no_difference_that_matters():
    found = failures(side("a", 50, 10_000), side("b", 52, 10_000), 0.02)
    assert found.more_calls == 0
    assert "by now they most likely would show one of 2.00%" in found.says


def test_latency_is_compared_by_rank_with_an_interval_of_the_medians():
    rng = random.Random(3)
    took = lambda middle: tuple(sorted(rng.gauss(middle, 1) for _ in range(400)))
    slower = latency(side("a", 0, 400), side("b", 0, 400), took(10), took(11))
    assert slower.p < 0.001
    assert 0.5 < slower.low < slower.value < slower.high < 1.5
    assert slower.says.startswith("b is slower than a: median 1")
    same = latency(side("a", 0, 400), side("b", 0, 400), took(10), took(10))
    assert same.low < 0 < same.high
    assert same.says.startswith("no difference in latency shown yet")
    assert "too few" in latency(side("a", 0, 400), side("b", 0, 9), took(10), took(10)[:9]).says
