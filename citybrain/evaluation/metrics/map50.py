"""`map50`: mean average precision of detections, a hit being an overlap of at least a half."""

from __future__ import annotations

from typing import Any

from citybrain.evaluation.detection_scores import average_precision
from citybrain.evaluation.metric import METRICS, Metric


@METRICS.add("map50")
class Map50(Metric):
    """COCO's AP at IoU 0.50, over the answers that the algorithm reports."""

    tasks = ("object-detection",)

    def score(self, truths: list[Any], answers: list[Any]) -> float:
        return average_precision(truths, answers, [0.5])
