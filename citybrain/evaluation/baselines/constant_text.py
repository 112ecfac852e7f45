"""`constant-text`: always the most frequent text of the data set."""

from __future__ import annotations

from collections import Counter
from typing import Any

from citybrain.evaluation.metric import BASELINES, Baseline
from citybrain.models.task import Sample


@BASELINES.add("constant-text")
class ConstantText(Baseline):
    """What somebody who does not listen would say; of equally frequent texts, the first."""

    tasks = ("transcription",)

    def answer(self, samples: list[Sample], task: Any) -> list[Any]:
        text, count = Counter(sample.truth.text for sample in samples).most_common(1)[0]
        return [task.Output(text=text, confidence=count / len(samples)) for _ in samples]
