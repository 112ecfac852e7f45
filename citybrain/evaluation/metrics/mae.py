"""`mae`: the mean absolute error of the median forecast, in the unit of the series."""

from __future__ import annotations

from typing import Any

import numpy as np

from citybrain.evaluation.metric import METRICS, Metric
from citybrain.models.quantiles import median_errors


@METRICS.add("mae")
class MeanAbsoluteError(Metric):
    """Every step of every horizon counts the same."""

    tasks = ("forecasting",)
    greater_is_better = False

    def score(self, truths: list[Any], answers: list[Any]) -> float:
        return float(np.abs(median_errors(truths, answers)).mean())
