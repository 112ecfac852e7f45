"""`wer`: the word error rate, wrong, missing and added words to true ones."""

from __future__ import annotations

from typing import Any

from citybrain.core.shelf import needs
from citybrain.evaluation.metric import METRICS, Metric


@METRICS.add("wer")
class WordErrorRate(Metric):
    """Over all items together, by jiwer. A number such as 307 is one word: see `cer`."""

    tasks = ("transcription",)
    greater_is_better = False

    def score(self, truths: list[Any], answers: list[Any]) -> float:
        with needs():
            import jiwer
        found = jiwer.process_words([t.text for t in truths], [a.text for a in answers])
        errors = found.substitutions + found.deletions + found.insertions
        # With nothing but silence there is no true word to divide by.
        return errors / max(1, found.substitutions + found.deletions + found.hits)
