"""`ece`: how far the probabilities are from the share of right answers; 0 is perfect."""

from __future__ import annotations

from typing import Any

import numpy as np

from citybrain.evaluation.metric import METRICS, Metric

BINS = 15


@METRICS.add("ece")
class ExpectedCalibrationError(Metric):
    """Expected calibration error with 15 bins of equal width (Guo et al. 2017, equation 3).

    Looks at the most probable class, also where the algorithm abstains from saying it. An answer
    without probabilities counts as sure of its label.
    """

    tasks = ("tabular-classification", "text-classification", "image-classification")
    greater_is_better = False

    def score(self, truths: list[Any], answers: list[Any]) -> float:
        best = [_most_probable(item) for item in answers]
        sure = np.clip([probability for _, probability in best], 0.0, 1.0)
        right = np.array(
            [label == truth.label for (label, _), truth in zip(best, truths, strict=True)]
        )
        # Bins are open on the left, as in the paper: (0, 1/15], (1/15, 2/15], …
        bins = np.clip(np.ceil(sure * BINS).astype(int) - 1, 0, BINS - 1)
        gaps = [abs(right[bins == b].sum() - sure[bins == b].sum()) for b in range(BINS)]
        return float(sum(gaps) / len(truths))


def _most_probable(item: Any) -> tuple[str, float]:
    if not item.probabilities:
        return item.label, 1.0
    label = max(item.probabilities, key=item.probabilities.__getitem__)
    return label, item.probabilities[label]
