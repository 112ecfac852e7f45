"""Long recordings as windows: cut where it is quiet, their texts put together again."""

from __future__ import annotations

import numpy as np

from citybrain.core.tensors import Array, Tensors, bytes_array
from citybrain.models.texts import between

PAUSE_SECONDS = 0.1
"""About as long is a pause between words; a silence inside a word is shorter."""
SLACK = 0.3
"""How far a cut may lie from where it would make equal windows, as a share of one."""


def windows(samples: Array, rate: int, seconds: float) -> list[tuple[int, int]]:
    """The first sample of each window and that behind its last, at most so many seconds apart."""
    most, block = round(seconds * rate), max(1, round(PAUSE_SECONDS * rate / 4))
    begin, found = 0, []
    while (left := len(samples) - begin) > most:
        equal = left / -(-left // most)
        first = begin + round((1 - SLACK) * equal)
        last = begin + min(most, round((1 + SLACK) * equal))
        blocks = np.abs(samples[first : first + (last - first) // block * block])
        loud = np.convolve(blocks.reshape(-1, block).mean(axis=1), np.ones(4), "valid")
        end = first + (int(loud.argmin()) + 2) * block
        found.append((begin, end))
        begin = end
    return [*found, (begin, len(samples))]


def put_together(rows: list[int], answers: list[Tensors], separator: str | None) -> Tensors:
    """The texts of windows as those of their recordings (`rows` says whose each is).

    No separator: a blank, in scripts that have blanks.
    """
    heard: dict[int, list[tuple[str, float]]] = {}
    for row, answer in zip(rows, answers, strict=True):
        text, sure = answer["text"][0].decode(), float(answer["confidence"][0])
        heard.setdefault(row, []).append((text, sure))
    found = [_whole(heard[row], separator) for row in sorted(heard)]
    return {
        "text": bytes_array([text.encode() for text, _ in found]),
        "confidence": np.array([sure for _, sure in found], np.float32),
    }


def _whole(heard: list[tuple[str, float]], separator: str | None) -> tuple[str, float]:
    """One text, and how sure it is: each window counts by its length."""
    whole = ""
    for text, _ in heard:
        gap = between(whole, text) if separator is None else separator * bool(whole and text)
        whole += gap + text
    logs = [np.log(max(sure, 1e-9)) for _, sure in heard]
    return whole, float(np.exp(np.average(logs, weights=[max(1, len(text)) for text, _ in heard])))
