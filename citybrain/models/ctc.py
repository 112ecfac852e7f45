"""Connectionist temporal classification: from a network's frames to text."""

from __future__ import annotations

import numpy as np

from citybrain.core.tensors import Array


def greedy_ctc(
    logits: Array, tokens: list[str], separator: str, blank: int = 0
) -> tuple[str, float]:
    """The text of the best path (Graves et al. 2006) and how sure the model is of its tokens.

    The confidence is the geometric mean, over the tokens, of the highest posterior in each
    token's run of frames; of silence, that of the blank over all frames.
    """
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    best = logs.argmax(axis=-1)
    peak = logs.max(axis=-1)
    starts = np.flatnonzero(np.diff(best, prepend=-1))
    if not len(starts):
        return "", 0.0
    kept = best[starts] != blank
    highest = np.maximum.reduceat(peak, starts)
    sure = float(np.exp(highest[kept].mean() if kept.any() else peak.mean()))
    return separator.join(tokens[index] for index in best[starts][kept]), sure
