"""What models of the transformers library hear: normalised waveforms, or whisper's features."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from citybrain.core.errors import BadMedia
from citybrain.core.shelf import needs
from citybrain.core.tensors import Array, Tensors

WHISPER_RATE = 16_000
WHISPER_SECONDS = 30
STEPS_PER_SECOND = 4
"""Waveforms are padded to a multiple of a quarter second, so that more calls share one."""
SHORTEST = 0.1
"""Seconds: a shorter sound is followed by silence, as the first convolutions need some samples."""


def waveforms(rows: list[Array], rate: int, *, normalise: bool) -> Tensors:
    """Sounds as `features` FP32[n,samples] and `lengths` INT64[n] of valid samples.

    Normalised as `Wav2Vec2FeatureExtractor` does: zero mean and unit variance of each sound.
    """
    least, step = round(SHORTEST * rate), rate // STEPS_PER_SECOND
    rows = [np.pad(row, (0, max(0, least - len(row)))) for row in rows]
    lengths = np.array([len(row) for row in rows], np.int64)
    features = np.zeros((len(rows), -(-int(lengths.max()) // step) * step), np.float32)
    for index, row in enumerate(rows):
        features[index, : len(row)] = (
            (row - row.mean()) / np.sqrt(row.var() + 1e-7) if normalise else row
        )
    return {"features": features, "lengths": lengths}


def whisper_features(rows: list[Array], n_mels: int) -> Tensors:
    """Sounds of 16 kHz as `features` FP32[n,mels,3000]: 30 s of log-mel frames, by the library."""
    for index, row in enumerate(rows):
        if len(row) > WHISPER_SECONDS * WHISPER_RATE:
            raise BadMedia(
                f"Item {index}: longer than {WHISPER_SECONDS} s, all that this model hears.",
                hint="Cut it at pauses and send the parts as items of one call.",
            )
    found = _extractor(n_mels)(list(rows), sampling_rate=WHISPER_RATE, return_tensors="np")
    return {"features": np.asarray(found["input_features"], np.float32)}


@lru_cache(maxsize=4)
def _extractor(n_mels: int) -> Any:
    with needs():
        from transformers import WhisperFeatureExtractor
    return WhisperFeatureExtractor(feature_size=n_mels)


def sounds_in_rows(sounds: list[tuple[Array, int]]) -> Tensors:
    """Sounds with their rates as task tensors: one row each, zeros behind the shorter ones."""
    lengths = [len(samples) for samples, _ in sounds]
    audio = np.zeros((len(sounds), max(lengths)), np.float32)
    for row, (samples, _) in zip(audio, sounds, strict=True):
        row[: len(samples)] = samples
    return {
        "audio": audio,
        "sample_rate": np.array([rate for _, rate in sounds], np.int32),
        "length": np.array(lengths, np.int32),
    }
