"""Training examples from recordings: joined, stretched, warped, in noise, with holes.

What differs between speakers and lines is drawn at random, so that a few speakers teach more
than themselves: speed (Ko et al. 2015), tempo, vocal tract length (Jaitly and Hinton 2013), noise
and echo, masked bands and moments (SpecAugment, Park et al. 2019).

Each batch also says roughly where its tokens are: the sounding part of a recording is divided
evenly among them, the flat start of hidden Markov models (Young et al., "The HTK Book"). CTC
alone spends its first hundreds of steps on finding that out.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from citybrain.core.tensors import Array
from citybrain.models.audio import (
    EDGE_FRAMES,
    HOP_SECONDS,
    log_mel_of,
    mel_filters,
    power_spectrum,
    resample,
)
from citybrain.models.datasets.speech_manifest import Utterance
from citybrain.models.speech_network import REDUCTION, Batch

ROWS = 16
JOINED_SECONDS = 2.5
MOST_JOINED = 6
BATCHES_AT_ONCE = 6
ALONE = 0.25  # of the examples are one recording, at least


@dataclass(frozen=True)
class Clip:
    """A sound at the model's rate, its tokens, and the middle of where each may be."""

    samples: Array
    text: list[int]
    cores: Array  # FP64[tokens, 2]: first and last sample


class Examples:
    """Draws batches of changed recordings; every speaker is drawn equally often."""

    def __init__(self, said: list[Utterance], tokens: list[str], rate: int, n_mels: int) -> None:
        self._rate, self._n_mels = rate, n_mels
        self._numbers = numbers = {token: index for index, token in enumerate(tokens)}
        self._speakers = self._by_speaker(said)
        self._mixed: list[list[Clip]] = []
        self._mixed_share = 0.0
        seconds = float(np.mean([len(c.samples) for s in self._speakers for c in s])) / rate
        # Numbers are joined into longer numbers and sentences into longer sentences; single
        # words of a text without spaces stay alone, for nothing says what joins them.
        digits = all(token.isdecimal() for token in tokens[1:])
        self._joint = [] if digits else [numbers[" "]] if " " in numbers else None
        most = int(np.clip(round(JOINED_SECONDS / seconds), 1, MOST_JOINED))
        self._most = 1 if self._joint is None else most
        self._waiting: list[list[Clip]] = []

    def mix(self, said: list[Utterance], share: float) -> None:
        """Draw this share of the examples from other recordings."""
        self._mixed, self._mixed_share = self._by_speaker(said), share

    def _by_speaker(self, said: list[Utterance]) -> list[list[Clip]]:
        speakers: defaultdict[str, list[Clip]] = defaultdict(list)
        for one in said:
            samples = resample(one.samples, one.rate, self._rate)
            text = [self._numbers[character] for character in one.text]
            clip = Clip(samples, text, _flat_start(samples, len(text), self._rate))
            speakers[one.speaker].append(clip)
        return list(speakers.values())

    def draw(self, rng: np.random.Generator) -> Batch:
        """One batch of changed examples."""
        if not self._waiting:
            self._fill(rng)
        clips = self._waiting.pop()
        found = [self._features(clip.samples, rng) for clip in clips]
        lengths = np.array([len(row) for row, _ in found], np.int64)
        features = np.zeros((ROWS, int(lengths.max()), self._n_mels), np.float32)
        places = np.zeros((ROWS, -(-features.shape[1] // REDUCTION)), np.int64)
        for index, (clip, (row, scale)) in enumerate(zip(clips, found, strict=True)):
            features[index, : len(row)] = row
            cores = EDGE_FRAMES + clip.cores * scale
            for token, (first, last) in zip(clip.text, cores, strict=True):
                places[index, int(first / REDUCTION) : int(last / REDUCTION) + 1] = token
            places[index, -(-len(row) // REDUCTION) :] = -1
        return Batch(features, lengths, [clip.text for clip in clips], places)

    def _fill(self, rng: np.random.Generator) -> None:
        """Draw for several batches at once and sort: rows of like length need little padding."""
        drawn = [self._utterance(rng) for _ in range(BATCHES_AT_ONCE * ROWS)]
        drawn.sort(key=lambda clip: len(clip.samples))
        batches = [drawn[start : start + ROWS] for start in range(0, len(drawn), ROWS)]
        self._waiting = [batches[index] for index in rng.permutation(len(batches))]

    def _utterance(self, rng: np.random.Generator) -> Clip:
        """One or several recordings of one speaker, one after the other."""
        mixed = rng.random() < self._mixed_share
        speakers = self._mixed if mixed else self._speakers
        clips = speakers[rng.integers(len(speakers))]
        most = min(2, self._most) if mixed else self._most
        parts = [self._silence(rng, 0.3)]
        text: list[int] = []
        cores: list[Array] = []
        gap = float(rng.uniform(0, 0.3))
        count = 1 if rng.random() < ALONE else int(rng.integers(1, most + 1))
        for index in range(count):
            clip = clips[rng.integers(len(clips))]
            start = sum(len(part) for part in parts)
            if index:
                pause = self._silence(rng, gap)
                parts.append(pause)
                text += self._joint or []
                cores += [np.array([[start, start + len(pause)]])] * len(self._joint or [])
                start += len(pause)
            level = np.float32(np.exp(rng.normal(0, 0.25)))
            # Recordings differ in level far more than the words of one person do.
            loud = level / max(float(np.sqrt((clip.samples**2).mean())), 1e-5)
            parts.append(clip.samples * loud)
            text += clip.text
            cores.append(clip.cores + start)
        parts.append(self._silence(rng, 0.3))
        return Clip(np.concatenate(parts), text, np.concatenate(cores))

    def _silence(self, rng: np.random.Generator, most: float) -> Array:
        return np.zeros(int(rng.uniform(0, most) * self._rate), np.float32)

    def _features(self, samples: Array, rng: np.random.Generator) -> tuple[Array, float]:
        """Features after all changes, and how many frames one sample has become."""
        speed = float(np.exp(rng.normal(0, 0.09)))
        places = np.arange(0, len(samples) - 1, speed)
        samples = np.interp(places, np.arange(len(samples)), samples).astype(np.float32)
        power = power_spectrum(samples, self._rate)
        tempo = float(np.exp(rng.normal(0, 0.12)))
        if rng.random() < 0.5 or len(power) < 2:
            tempo = 1.0
        else:
            moments = np.arange(0, len(power) - 1, tempo)
            whole = moments.astype(int)
            part = (moments - whole).astype(np.float32)[:, None]
            power = power[whole] * (1 - part) + power[whole + 1] * part
        if rng.random() < 0.3:
            power = _echo(power, rng)
        power = power * _line(power.shape[1], rng)
        if rng.random() < 0.85:
            power = power + _noise(power, rng)
        warp = round(float(np.clip(np.exp(rng.normal(0, 0.09)), 0.8, 1.25)), 2)
        features = log_mel_of(power, mel_filters(self._rate, self._n_mels, warp))
        for _ in range(2):  # masked with 0, the mean
            width = int(rng.integers(0, self._n_mels // 6 + 1))
            start = int(rng.integers(0, self._n_mels - width + 1))
            features[:, start : start + width] = 0
            width = int(rng.integers(0, min(10, len(features)) + 1))
            start = int(rng.integers(0, len(features) - width + 1))
            features[start : start + width] = 0
        return features, 1 / (speed * tempo * HOP_SECONDS * self._rate)


def _flat_start(samples: Array, tokens: int, rate: int) -> Array:
    """The middle halves of equal shares of the part that is within 25 dB of the loudest."""
    hop = round(HOP_SECONDS * rate)
    whole = samples[: max(1, len(samples) // hop) * hop]
    energy = (whole.reshape(-1, min(hop, len(whole))) ** 2).mean(axis=1)
    loud = np.flatnonzero(energy >= energy.max() * 10**-2.5)
    first, last = loud[0] * hop, (loud[-1] + 1) * hop
    share = (last - first) / tokens
    starts = first + share * np.arange(tokens)
    cores: Array = np.stack([starts + 0.25 * share, starts + 0.75 * share], axis=1)
    return cores


def _echo(power: Array, rng: np.random.Generator) -> Array:
    """Each frame rings on in the next ones: a room as its energy decays."""
    from scipy.signal import lfilter

    decay, share = float(rng.uniform(0.5, 0.85)), float(rng.uniform(0.02, 0.25))
    ringing = lfilter([share], [1, -decay], power, axis=0)
    echoed: Array = (power + ringing).astype(np.float32)
    return echoed


def _line(bins: int, rng: np.random.Generator) -> Array:
    """What a microphone and a line do to the spectrum: a smooth curve of some decibels."""
    knots = np.cumsum(rng.normal(0, 4, 6)) if rng.random() < 0.7 else np.zeros(6)
    decibels = np.interp(np.arange(bins), np.linspace(0, bins - 1, 6), knots)
    curve: Array = (10 ** (decibels / 10)).astype(np.float32)
    return curve


def _noise(power: Array, rng: np.random.Generator) -> Array:
    """Steady noise of a random colour; the power of noise is exponentially distributed."""
    bins = power.shape[1]
    colour = np.linspace(0.02, 1, bins) ** -float(rng.uniform(-0.5, 1.5))
    level = float(power.mean()) * 10 ** (-float(rng.uniform(3, 45)) / 10)
    shape = (colour / colour.mean() * level).astype(np.float32)
    drawn: Array = rng.standard_exponential(power.shape, dtype=np.float32) * shape
    return drawn
