"""`map50-95`: mean average precision over ten overlaps; frames must be tight to score well."""

from __future__ import annotations

from typing import Any

from citybrain.evaluation.detection_scores import average_precision
from citybrain.evaluation.metric import METRICS, Metric


@METRICS.add("map50-95")
class Map5095(Metric):
    """COCO's main AP: the mean at IoU 0.50, 0.55, ... 0.95."""

    tasks = ("object-detection",)

    def score(self, truths: list[Any], answers: list[Any]) -> float:
        return average_precision(truths, answers, [0.5 + 0.05 * step for step in range(10)])
