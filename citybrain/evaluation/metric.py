"""What a metric and a baseline are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from citybrain.core.shelf import Shelf
from citybrain.models.task import Sample


class Metric(ABC):
    """One number for a list of answers. A subclass is one file in `metrics/`.

    The evaluator calls `score` once for all items, once a slice, and on bootstrap resamples for
    the interval, so it must be a pure function of the two lists.
    """

    tasks: ClassVar[tuple[str, ...]]
    greater_is_better: ClassVar[bool] = True
    unit: ClassVar[str] = ""

    @abstractmethod
    def score(self, truths: list[Any], answers: list[Any]) -> float:
        """The metric of these items; `truths[i]` and `answers[i]` are the task's `Output`."""


class Baseline(ABC):
    """A rule that needs no training and that every algorithm must beat."""

    tasks: ClassVar[tuple[str, ...]]

    @abstractmethod
    def answer(self, samples: list[Sample], task: Any) -> list[Any]:
        """One `Output` a sample, from the inputs and at most the overall share of each class."""


METRICS: Shelf[Metric] = Shelf("metric", "citybrain.evaluation.metrics")
BASELINES: Shelf[Baseline] = Shelf("baseline", "citybrain.evaluation.baselines")
