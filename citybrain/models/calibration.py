"""Make probabilities mean what they say, and choose when to stay silent."""

from __future__ import annotations

import numpy as np

from citybrain.core.tensors import Array

HOTTEST = 20.0
ENOUGH = 0.05
"""The share of items that a threshold must at least answer to be worth looking at."""


def log_loss(logits: Array, truth: Array, temperature: float) -> float:
    """Mean negative log likelihood of the true classes at a temperature."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    chosen = scaled[np.arange(len(truth)), truth]
    return float((np.log(np.exp(scaled).sum(axis=1)) - chosen).mean())


def best_temperature(logits: Array, truth: Array) -> float:
    """The temperature with the lowest log loss (Guo et al. 2017, section 4.2).

    The loss is convex in 1/temperature, so a golden-section search over its logarithm finds it.
    """
    low, high = -np.log(HOTTEST), np.log(HOTTEST)
    golden = (np.sqrt(5.0) - 1.0) / 2.0
    for _ in range(40):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if log_loss(logits, truth, np.exp(left)) <= log_loss(logits, truth, np.exp(right)):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def abstain_threshold(probabilities: Array, truth: Array, accuracy: float) -> float:
    """The lowest top probability from which on answers are right with this accuracy.

    Only thresholds that answer a few (ENOUGH) of the items count; where none reaches the accuracy,
    the best of them.
    """
    top = probabilities.max(axis=1)
    order = np.argsort(-top, kind="stable")
    right = (probabilities.argmax(axis=1) == truth)[order]
    reached = np.cumsum(right) / np.arange(1, len(order) + 1)
    # Equal probabilities are answered together or not at all.
    whole = np.append(np.diff(top[order]) != 0, True)
    first = min(len(order) - 1, int(ENOUGH * len(order)))
    allowed = np.flatnonzero(whole[first:]) + first
    good = allowed[reached[allowed] >= accuracy]
    last = int(good[-1] if len(good) else allowed[reached[allowed].argmax()])
    if last == len(order) - 1:
        return 0.0  # everything may be answered
    # Half-way to the first item that stays unanswered: rounding must not move either.
    return float((top[order][last] + top[order][last + 1]) / 2)
