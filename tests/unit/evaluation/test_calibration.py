"""Metrics of abstention and calibration, and the choice of temperature and threshold."""

from __future__ import annotations

import numpy as np
import pytest

from citybrain.evaluation.metric import BASELINES, METRICS
from citybrain.evaluation.scenario import find_scenario
from citybrain.models.calibration import abstain_threshold, best_temperature, log_loss
from citybrain.models.task import TASKS, Sample

Answer = TASKS.get("text-classification").Output


def says(label: str, sure: float, *, abstained: bool = False) -> Answer:
    other = "b" if label == "a" else "a"
    chances = {label: sure, other: 1 - sure}
    return Answer("" if abstained else label, chances, abstained)


def truths(labels: str) -> list[Answer]:
    return [Answer(label, {}) for label in labels]


def test_abstentions_count_for_the_share_and_not_for_the_accuracy() -> None:
    answers = [says("a", 0.9), says("a", 0.9), says("b", 0.6, abstained=True), says("b", 0.8)]
    assert METRICS.get("answered-share").score(truths("abab"), answers) == 0.75
    assert METRICS.get("answered-accuracy").score(truths("abab"), answers) == pytest.approx(2 / 3)


def test_who_never_answers_earns_nothing() -> None:
    silent = [says("a", 0.5, abstained=True)] * 3
    assert METRICS.get("answered-share").score(truths("aab"), silent) == 0.0
    assert METRICS.get("answered-accuracy").score(truths("aab"), silent) == 0.0


def test_ece_is_the_weighted_gap_between_confidence_and_accuracy() -> None:
    metric = METRICS.get("ece")
    assert not metric.greater_is_better
    # Two bins: 4 items at 0.75 of which 2 are right, 1 item at 0.95 that is right.
    answers = [says("a", 0.75)] * 4 + [says("a", 0.95)]
    expected = 4 / 5 * abs(0.75 - 0.5) + 1 / 5 * abs(0.95 - 1.0)
    assert metric.score(truths("aabba"), answers) == pytest.approx(expected)


def test_ece_of_honest_probabilities_is_small_and_of_boasting_ones_is_not() -> None:
    rng = np.random.default_rng(2)
    sure = rng.uniform(0.5, 1.0, 4000)
    labels = "".join(
        "a" if draw < s else "b" for draw, s in zip(rng.random(4000), sure, strict=True)
    )
    metric = METRICS.get("ece")
    assert metric.score(truths(labels), [says("a", s) for s in sure]) < 0.04
    assert metric.score(truths(labels), [says("a", 0.99)] * 4000) > 0.2


def test_ece_judges_what_an_abstaining_algorithm_would_have_said() -> None:
    metric = METRICS.get("ece")
    silent = [says("a", 0.7, abstained=True)] * 10
    assert metric.score(truths("aaaaaaabbb"), silent) == pytest.approx(0.0, abs=1e-9)


def test_the_best_temperature_undoes_a_known_scaling() -> None:
    rng = np.random.default_rng(5)
    honest = rng.normal(0, 2, (5000, 4))
    chances = np.exp(honest) / np.exp(honest).sum(axis=1, keepdims=True)
    truth = np.array([rng.choice(4, p=row) for row in chances])
    for scale in (0.5, 1.0, 3.0):
        found = best_temperature(honest * scale, truth)
        assert found == pytest.approx(scale, rel=0.08)
        assert log_loss(honest * scale, truth, found) <= log_loss(honest * scale, truth, 1.0)


def test_the_threshold_answers_as_much_as_the_accuracy_allows() -> None:
    sure = np.linspace(0.99, 0.51, 100)
    probabilities = np.stack([sure, 1 - sure], axis=1)
    truth = np.zeros(100, int)
    truth[60:] = np.arange(40) % 2  # the unsure ones are right every second time
    threshold = abstain_threshold(probabilities, truth, 0.95)
    answered = sure >= threshold
    right = (truth == 0)[answered]
    assert right.mean() >= 0.95
    one_more = np.arange(100) <= answered.sum() + 1
    assert (truth == 0)[one_more].mean() < 0.95
    assert abstain_threshold(probabilities, np.zeros(100, int), 0.95) == 0.0


def test_a_threshold_is_found_where_the_accuracy_is_out_of_reach() -> None:
    sure = np.linspace(0.99, 0.51, 100)
    truth = np.ones(100, int)
    truth[:20:2] = 0  # never better than one in two
    threshold = abstain_threshold(np.stack([sure, 1 - sure], axis=1), truth, 0.95)
    assert 0.05 <= (sure >= threshold).mean() <= 0.3


def test_the_majority_baseline_answers_texts() -> None:
    samples = [Sample({}, truth) for truth in truths("aab")]
    answers = BASELINES.get("majority").answer(samples, TASKS.get("text-classification"))
    assert [item.label for item in answers] == ["a"] * 3
    assert METRICS.get("answered-share").score(truths("aab"), answers) == 1.0


def test_the_scenario_reads_and_asks_for_its_own_metrics() -> None:
    scenario = find_scenario("hotline-routing")
    assert scenario.task == "text-classification"
    assert scenario.data.recipe == "hotline-router"
