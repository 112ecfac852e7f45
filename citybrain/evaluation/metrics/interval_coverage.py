"""`coverage`: the share of true values between the 0.1 and the 0.9 quantile; 0.8 is honest."""

from __future__ import annotations

from typing import Any

from citybrain.evaluation.metric import METRICS, Metric
from citybrain.models.quantiles import matrix, observed


@METRICS.add("coverage")
class IntervalCoverage(Metric):
    """The outermost quantiles of answers that have neither of the two."""

    tasks = ("forecasting",)

    def score(self, truths: list[Any], answers: list[Any]) -> float:
        names = sorted(answers[0].quantiles, key=float)
        low = "0.1" if "0.1" in names else names[0]
        high = "0.9" if "0.9" in names else names[-1]
        truth = observed(truths)
        inside = (truth >= matrix(answers, low)) & (truth <= matrix(answers, high))
        return float(inside.mean())
