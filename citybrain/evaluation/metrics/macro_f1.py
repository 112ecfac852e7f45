"""`macro-f1`: the mean of each class's F1 score; a rare class counts as much as a common one."""

from __future__ import annotations

from typing import Any

from citybrain.evaluation.metric import METRICS, Metric


@METRICS.add("macro-f1")
class MacroF1(Metric):
    """scikit-learn's `f1_score(average="macro")` on `label`."""

    tasks = ("tabular-classification", "text-classification", "image-classification")

    def score(self, truths: list[Any], answers: list[Any]) -> float:
        from sklearn.metrics import f1_score

        truth = [item.label for item in truths]
        labels = sorted(set(truth))
        guess = [item.label for item in answers]
        return float(f1_score(truth, guess, labels=labels, average="macro", zero_division=0.0))
