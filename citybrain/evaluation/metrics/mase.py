"""`mase`: the mean absolute scaled error, which compares series of different units.

Hyndman and Koehler 2006, "Another look at measures of forecast accuracy". The scale is the mean
absolute one-step change of the sample's own history (`Forecast.scale` of the truth).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from citybrain.evaluation.metric import METRICS, Metric
from citybrain.models.quantiles import median_errors


@METRICS.add("mase")
class MeanAbsoluteScaledError(Metric):
    """Below 1: better than one-step repetition was on the history, over the whole horizon."""

    tasks = ("forecasting",)
    greater_is_better = False

    def score(self, truths: list[Any], answers: list[Any]) -> float:
        scale = np.array([truth.scale for truth in truths])[:, None]
        return float((np.abs(median_errors(truths, answers)) / scale).mean())
