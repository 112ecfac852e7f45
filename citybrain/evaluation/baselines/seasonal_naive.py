"""`seasonal-naive`: what was measured at this time a day ago, where the history reaches back."""

from __future__ import annotations

from typing import Any

import numpy as np

from citybrain.evaluation.metric import BASELINES, Baseline
from citybrain.models.quantiles import repeated
from citybrain.models.task import Sample

DAY = 86_400


@BASELINES.add("seasonal-naive")
class SeasonalNaive(Baseline):
    """The last day of the history over and over; the last value where there is less than a day."""

    tasks = ("forecasting",)

    def answer(self, samples: list[Sample], task: Any) -> list[Any]:
        answers = []
        for sample in samples:
            history, truth = sample.inputs["series"][0], sample.truth
            season = max(1, DAY // truth.step_seconds)
            if len(history) < season:
                season = 1
            values = np.resize(history[-season:], truth.horizon)
            answers.append(repeated(sample, task, values))
        return answers
