"""`answered-share`: the share of items that the algorithm answers instead of abstaining."""

from __future__ import annotations

from typing import Any

from citybrain.evaluation.metric import METRICS, Metric


@METRICS.add("answered-share")
class AnsweredShare(Metric):
    """Coverage of selective classification (El-Yaniv and Wiener 2010)."""

    tasks = ("text-classification",)

    def score(self, truths: list[Any], answers: list[Any]) -> float:
        return sum(not item.abstained for item in answers) / len(truths)
