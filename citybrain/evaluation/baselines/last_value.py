"""`last-value`: the next values are the last one (persistence)."""

from __future__ import annotations

from typing import Any

import numpy as np

from citybrain.evaluation.metric import BASELINES, Baseline
from citybrain.models.quantiles import repeated
from citybrain.models.task import Sample


@BASELINES.add("last-value")
class LastValue(Baseline):
    """Hard to beat a few minutes ahead, and easy an hour ahead. All quantiles are the same."""

    tasks = ("forecasting",)

    def answer(self, samples: list[Sample], task: Any) -> list[Any]:
        return [
            repeated(s, task, np.full(s.truth.horizon, s.inputs["series"][0, -1])) for s in samples
        ]
