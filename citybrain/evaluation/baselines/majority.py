"""`majority`: always the most frequent label of the data set."""

from __future__ import annotations

from collections import Counter
from typing import Any

from citybrain.evaluation.metric import BASELINES, Baseline
from citybrain.models.task import Sample


@BASELINES.add("majority")
class Majority(Baseline):
    """What somebody who only knows the frequencies would say."""

    tasks = ("tabular-classification", "text-classification", "image-classification")

    def answer(self, samples: list[Sample], task: Any) -> list[Any]:
        label, count = Counter(sample.truth.label for sample in samples).most_common(1)[0]
        probabilities = {label: count / len(samples)}
        return [task.Output(label=label, probabilities=probabilities) for _ in samples]
