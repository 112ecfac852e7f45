"""`pinball`: the mean quantile loss (Koenker and Bassett 1978) of all quantiles of the answers."""

from __future__ import annotations

from typing import Any

import numpy as np

from citybrain.evaluation.metric import METRICS, Metric
from citybrain.models.quantiles import matrix, observed


@METRICS.add("pinball")
class Pinball(Metric):
    """In the unit of the series; half the absolute error where there is only a median."""

    tasks = ("forecasting",)
    greater_is_better = False

    def score(self, truths: list[Any], answers: list[Any]) -> float:
        truth = observed(truths)
        losses = []
        for name in answers[0].quantiles:
            error = truth - matrix(answers, name)
            losses.append(np.maximum(float(name) * error, (float(name) - 1) * error).mean())
        return float(np.mean(losses))
