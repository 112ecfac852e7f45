"""`rmse`: the root of the mean squared error of the median forecast; large misses weigh more."""

from __future__ import annotations

from typing import Any

import numpy as np

from citybrain.evaluation.metric import METRICS, Metric
from citybrain.models.quantiles import median_errors


@METRICS.add("rmse")
class RootMeanSquaredError(Metric):
    """In the unit of the series."""

    tasks = ("forecasting",)
    greater_is_better = False

    def score(self, truths: list[Any], answers: list[Any]) -> float:
        return float(np.sqrt((median_errors(truths, answers) ** 2).mean()))
