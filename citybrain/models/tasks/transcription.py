"""`transcription`: a recording to the text that is said in it, by a CTC model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field, field_validator

from citybrain.core.errors import BadMedia, BadTensor, TooLarge
from citybrain.core.tensors import Array, Signature, Tensors, TensorSpec, bytes_array
from citybrain.models.audio import (
    MAX_SECONDS,
    RATES,
    decode,
    encode_wav,
    log_mel,
    padded_features,
    resample,
)  # fmt: skip
from citybrain.models.ctc import greedy_ctc
from citybrain.models.datasets.speech_manifest import read_speech
from citybrain.models.package import Strict
from citybrain.models.task import TASKS, Item, Sample, Task

MAX_SAMPLES = 40_000_000
"""In one call, padding included: 160 MB, ten minutes at 64 kHz or an hour and more at 8 kHz."""


class TranscriptionOptions(Strict):
    """What the model hears, and what its outputs stand for."""

    sample_rate: int = Field(default=8_000, ge=RATES.start, le=48_000)
    n_mels: int = Field(default=40, ge=8, le=128)
    tokens: list[str] = Field(min_length=2, max_length=50_000)
    """The first is the blank of CTC, whatever is written there."""
    separator: str = Field(default="", max_length=4)
    """Stands between tokens in the text: a space where tokens are words."""

    @field_validator("tokens")
    @classmethod
    def _distinct(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("tokens must differ from one another")
        return value


class Recording(Item):
    """A WAV, FLAC or OGG file; base64 in JSON."""

    audio: bytes


class Transcript(Item):
    """What is said, and how sure the model is (0 to 1)."""

    text: str
    confidence: float


@TASKS.add("transcription")
class Transcription(Task):
    """Model: `features` `FP32[n,frames,mels]`, `lengths` `INT64[n]` to `logits` `FP32[n,m,tokens]`.

    `lengths` counts the valid frames of each row; the model must not look beyond. Its own output
    `lengths` (optional) does the same for the logits.
    """

    Options = TranscriptionOptions
    Input = Recording
    Output = Transcript
    media = "audio"
    default_metrics = ("cer", "wer")

    def signature(self) -> Signature:
        return Signature(
            (
                TensorSpec("audio", "FP32", (-1, -1)),
                TensorSpec("sample_rate", "INT32", (-1,)),
                TensorSpec("length", "INT32", (-1,), optional=True),
            ),
            (
                TensorSpec("text", "BYTES", (-1,)),
                TensorSpec("confidence", "FP32", (-1,)),
            ),
        )

    def example(self) -> list[Recording]:
        # A rising and falling hum: a valid file that says nothing, of half a second.
        rate = self.options.sample_rate
        time = np.arange(rate // 2) / rate
        hum = (
            0.3 * np.sin(2 * np.pi * (140 * time + 8 * np.sin(4 * time))) * np.sin(2 * np.pi * time)
        )
        return [Recording(encode_wav(hum.astype(np.float32), rate))]

    def read(self, items: list[Recording]) -> Tensors:
        return self.read_media([item.audio for item in items])

    def read_media(self, files: list[bytes]) -> Tensors:
        rows: list[tuple[Array, int]] = []
        for index, raw in enumerate(files):
            samples, rate = decode(raw, index)
            if rate > self.options.sample_rate:  # the model hears no more: less to carry
                samples, rate = (
                    resample(samples, rate, self.options.sample_rate),
                    self.options.sample_rate,
                )
            rows.append((samples, rate))
            _check_size(len(files), max(len(samples) for samples, _ in rows))
        return _rows(rows)

    def prepare(self, inputs: Tensors) -> Tensors:
        audio, rates = inputs["audio"], inputs["sample_rate"]
        count, longest = audio.shape
        _check_size(count, longest)
        lengths = inputs.get("length", np.full(count, longest, np.int32))
        rows = []
        for index in range(count):
            rate, length = int(rates[index]), int(lengths[index])
            if rate not in RATES:
                raise BadTensor(f"Item {index}: sample_rate is 4000 to 192000 Hz, not {rate}.")
            if not 0 < length <= longest:
                raise BadTensor(f"Item {index}: length must be 1 to {longest}, not {length}.")
            if length > MAX_SECONDS * rate:
                raise BadMedia(f"Item {index}: longer than {MAX_SECONDS // 60} minutes.")
            wanted = self.options.sample_rate
            samples = resample(audio[index, :length], rate, wanted)
            rows.append(log_mel(samples, wanted, self.options.n_mels))
        return padded_features(rows)

    def finish(self, outputs: Tensors, inputs: Tensors) -> Tensors:
        logits = outputs["logits"]
        if logits.shape[-1] != len(self.options.tokens):
            raise BadTensor(
                f"The model has {logits.shape[-1]} outputs for {len(self.options.tokens)} tokens."
            )
        lengths = outputs.get("lengths", np.full(len(logits), logits.shape[1]))
        found = [
            greedy_ctc(row[: int(length)], self.options.tokens, self.options.separator)
            for row, length in zip(logits, lengths, strict=True)
        ]
        return {
            "text": bytes_array([text.encode() for text, _ in found]),
            "confidence": np.array([sure for _, sure in found], np.float32),
        }

    def write(self, outputs: Tensors) -> list[Transcript]:
        return [
            Transcript(text.decode(errors="replace"), round(float(sure), 4))
            for text, sure in zip(outputs["text"], outputs["confidence"], strict=True)
        ]

    def samples(self, path: Path) -> list[Sample]:
        found = []
        for said in read_speech(path):
            audio = resample(said.samples, said.rate, self.options.sample_rate)
            inputs = _rows([(audio, self.options.sample_rate)])
            found.append(Sample(inputs, Transcript(said.text, 1.0), said.tags, said.name))
        return found


def _rows(sounds: list[tuple[Array, int]]) -> Tensors:
    lengths = [len(samples) for samples, _ in sounds]
    audio = np.zeros((len(sounds), max(lengths)), np.float32)
    for row, (samples, _) in zip(audio, sounds, strict=True):
        row[: len(samples)] = samples
    return {
        "audio": audio,
        "sample_rate": np.array([rate for _, rate in sounds], np.int32),
        "length": np.array(lengths, np.int32),
    }


def _check_size(rows: int, longest: int) -> None:
    if rows * longest > MAX_SAMPLES:
        raise TooLarge(
            f"{rows} sounds of up to {longest} samples are too much for one call.",
            hint="Send long recordings one at a time.",
        )
