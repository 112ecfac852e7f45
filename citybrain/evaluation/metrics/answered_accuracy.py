"""`answered-accuracy`: the share of right labels among the items that are answered."""

from __future__ import annotations

from typing import Any

from citybrain.evaluation.metric import METRICS, Metric


@METRICS.add("answered-accuracy")
class AnsweredAccuracy(Metric):
    """To be read beside `answered-share`; 0 for an algorithm that never answers."""

    tasks = ("text-classification",)

    def score(self, truths: list[Any], answers: list[Any]) -> float:
        right = [
            truth.label == item.label
            for truth, item in zip(truths, answers, strict=True)
            if not item.abstained
        ]
        return sum(right) / len(right) if right else 0.0
