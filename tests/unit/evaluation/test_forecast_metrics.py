"""Metrics and baselines of forecasts, against numbers worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from citybrain.evaluation.metric import BASELINES, METRICS
from citybrain.evaluation.scenario import find_scenario
from citybrain.models.task import Sample
from citybrain.models.tasks.forecasting import Forecast

TRUTHS = [
    Forecast({"0.5": [10.0, 20.0]}, 2, 300, scale=2.0),
    Forecast({"0.5": [0.0, 4.0]}, 2, 300, scale=0.5),
]
ANSWERS = [
    Forecast({"0.1": [9.0, 21.0], "0.5": [11.0, 23.0], "0.9": [12.0, 30.0]}, 2, 300),
    Forecast({"0.1": [0.0, 3.0], "0.5": [0.0, 4.0], "0.9": [1.0, 4.0]}, 2, 300),
]


def test_absolute_squared_and_scaled_errors() -> None:
    assert METRICS.get("mae").score(TRUTHS, ANSWERS) == pytest.approx((1 + 3) / 4)
    assert METRICS.get("rmse").score(TRUTHS, ANSWERS) == pytest.approx(np.sqrt((1 + 9) / 4))
    assert METRICS.get("mase").score(TRUTHS, ANSWERS) == pytest.approx((0.5 + 1.5) / 4)


def test_scaled_errors_weigh_each_sample_by_its_own_scale() -> None:
    wrong = [Forecast({"0.5": [2.0]}, 1, 300), Forecast({"0.5": [2.0]}, 1, 300)]
    truths = [
        Forecast({"0.5": [0.0]}, 1, 300, scale=4.0),
        Forecast({"0.5": [0.0]}, 1, 300, scale=1.0),
    ]
    assert METRICS.get("mase").score(truths, wrong) == pytest.approx((0.5 + 2.0) / 2)


def test_the_pinball_loss_is_the_textbook_one() -> None:
    low = (0.1 * 1 + 0.9 * 1 + 0.0 + 0.1 * 1) / 4
    mid = 0.5 * (1 + 3) / 4
    high = (0.1 * 2 + 0.1 * 10 + 0.1 * 1 + 0.0) / 4
    assert METRICS.get("pinball").score(TRUTHS, ANSWERS) == pytest.approx((low + mid + high) / 3)


def test_coverage_counts_truths_inside_the_interval() -> None:
    coverage = METRICS.get("coverage")
    assert coverage.score(TRUTHS, ANSWERS) == pytest.approx(3 / 4)  # 20 lies below 21
    only_median = [Forecast({"0.5": [10.0, 21.0]}, 2, 300)]
    assert coverage.score(TRUTHS[:1], only_median) == pytest.approx(0.5)


def sample(history: list[float], horizon: int, step: int) -> Sample:
    """A window whose truth does not matter."""
    series = np.array([history], np.float32)
    return Sample({"series": series}, Forecast({"0.5": [0.0] * horizon}, horizon, step))


TASK: Any = SimpleNamespace(Output=Forecast, options=SimpleNamespace(quantiles=[0.1, 0.5, 0.9]))


def test_the_last_value_is_repeated_in_every_quantile() -> None:
    (answer,) = BASELINES.get("last-value").answer([sample([1.0, 2.0, 7.0], 3, 300)], TASK)
    assert answer.quantiles == {name: [7.0] * 3 for name in ("0.1", "0.5", "0.9")}
    assert (answer.horizon, answer.step_seconds) == (3, 300)


def test_the_seasonal_baseline_looks_a_day_back_where_it_can() -> None:
    seasonal = BASELINES.get("seasonal-naive")
    day = [float(hour) for hour in range(24)]
    long, short = sample([99.0, *day], 26, 3600), sample(day[:20], 3, 3600)
    first, second = seasonal.answer([long, short], TASK)
    assert first.quantiles["0.5"] == [*day, 0.0, 1.0]
    assert second.quantiles["0.5"] == [19.0] * 3


def test_the_scenario_of_the_evening_peak_is_whole() -> None:
    scenario = find_scenario("evening-peak")
    assert scenario.task == "forecasting" and scenario.baseline in BASELINES.names()
    assert any(rule.slice == "part=peak" for rule in scenario.gate)
    assert not METRICS.get("mase").greater_is_better
