"""Error rates of transcripts, their baseline, and the scenario that asks for them."""

from __future__ import annotations

import numpy as np
import pytest

from citybrain.evaluation.metric import BASELINES, METRICS
from citybrain.evaluation.scenario import find_scenario
from citybrain.models.task import Sample
from citybrain.models.tasks.transcription import Transcript, Transcription


def said(*texts: str) -> list[Transcript]:
    return [Transcript(text, 1.0) for text in texts]


@pytest.mark.parametrize(
    ("name", "truths", "answers", "value"),
    [
        ("cer", ("307", "12"), ("307", "12"), 0.0),
        ("cer", ("307", "1"), ("317", "1"), 0.25),
        ("cer", ("307", "1"), ("", ""), 1.0),
        ("cer", ("", "12"), ("9", "12"), 0.5),
        ("cer", ("",), ("98",), 2.0),
        ("cer", ("",), ("",), 0.0),
        ("wer", ("help me now", "yes"), ("help me", "no"), 0.5),
        ("wer", ("307",), ("317",), 1.0),
        ("wer", ("", "yes"), ("oh", "yes"), 1.0),
        ("wer", ("",), ("",), 0.0),
        ("exact-match", ("307", "12"), ("307", "1"), 0.5),
    ],
)
def test_error_rates_of_known_answers(
    name: str, truths: tuple[str, ...], answers: tuple[str, ...], value: float
) -> None:
    assert METRICS.get(name).score(said(*truths), said(*answers)) == pytest.approx(value)


def test_less_is_better_for_errors_only() -> None:
    better = {name: METRICS.get(name).greater_is_better for name in ("cer", "wer", "exact-match")}
    assert better == {"cer": False, "wer": False, "exact-match": True}


def test_the_baseline_says_the_most_frequent_text() -> None:
    samples = [
        Sample({"audio": np.zeros((1, 9), np.float32)}, truth)
        for truth in said("12", "307", "307", "4")
    ]
    answers = BASELINES.get("constant-text").answer(samples, Transcription())
    assert [answer.text for answer in answers] == ["307"] * 4
    assert answers[0].confidence == 0.5


def test_the_scenario_asks_for_a_margin_over_the_baseline() -> None:
    scenario = find_scenario("emergency-number")
    assert scenario.task == "transcription"
    assert {rule.metric for rule in scenario.gate} <= {"cer", "exact-match"}
    assert any(rule.better_than == "baseline" and rule.by >= 0.3 for rule in scenario.gate)
