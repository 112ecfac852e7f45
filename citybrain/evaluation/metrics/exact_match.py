"""`exact-match`: the share of items whose whole text is right."""

from __future__ import annotations

from typing import Any

from citybrain.evaluation.metric import METRICS, Metric


@METRICS.add("exact-match")
class ExactMatch(Metric):
    """Where one wrong digit sends the ambulance elsewhere, only this counts."""

    tasks = ("transcription",)

    def score(self, truths: list[Any], answers: list[Any]) -> float:
        right = sum(int(t.text == a.text) for t, a in zip(truths, answers, strict=True))
        return right / len(truths)
