"""`accuracy`: the share of items whose label is right."""

from __future__ import annotations

from typing import Any

from citybrain.evaluation.metric import METRICS, Metric


@METRICS.add("accuracy")
class Accuracy(Metric):
    """An answer without a label (an abstention) counts as wrong."""

    tasks = ("tabular-classification", "text-classification", "image-classification")

    def score(self, truths: list[Any], answers: list[Any]) -> float:
        right: int = sum(t.label == a.label for t, a in zip(truths, answers, strict=True))
        return right / len(truths)
