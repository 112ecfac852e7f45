"""`transcription`: a recording to the text that is said in it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from citybrain.core.errors import BadMedia, BadPackage, BadTensor, TooLarge
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
from citybrain.models.hearing import WHISPER_RATE, sounds_in_rows, waveforms, whisper_features
from citybrain.models.package import Manifest, Strict
from citybrain.models.task import TASKS, Item, Piece, Sample, Task
from citybrain.models.tokenizer import open_tokenizer
from citybrain.models.transformers_checks import preprocessor
from citybrain.models.windows import put_together, windows

MAX_SAMPLES = 40_000_000
"""In one call, padding included: 160 MB, ten minutes at 64 kHz or an hour and more at 8 kHz."""
PART_SECONDS = 15.0
"""The longest window of a recording that is answered in parts."""


HEARD: dict[str, dict[str, int]] = {
    "log-mel": {},
    "waveform": {"sample_rate": 16_000},
    "whisper": {"sample_rate": WHISPER_RATE, "n_mels": 80},
}
"""What is true of models of each kind of features, unless the options say otherwise."""


class TranscriptionOptions(Strict):
    """What the model hears, and what its outputs stand for."""

    features: Literal["log-mel", "waveform", "whisper"] = "log-mel"
    """`log-mel`: those of `audio.py`. `waveform`: samples. `whisper`: 30 s of whisper's own."""
    sample_rate: int = Field(default=8_000, ge=RATES.start, le=48_000)
    n_mels: int = Field(default=40, ge=8, le=128)
    tokens: list[str] = Field(default=[], max_length=50_000)
    """What each output of a CTC model stands for; other models bring a `tokenizer.json`."""
    blank: int = Field(default=0, ge=0)
    """Which of the tokens is the blank of CTC, whatever is written there."""
    separator: str = Field(default="", max_length=4)
    """Stands between tokens in the text: a space where tokens are words."""
    space: str = Field(default="", max_length=20)
    """The token that is written as a space: `|` of wav2vec2."""
    unwritten: list[str] = Field(default=[], max_length=100)
    """Tokens that are heard and not written: `<unk>` and the like."""
    language: str = Field(default="", max_length=20)
    """What is spoken, for models of many languages (`zh`); nothing: the model finds out."""
    max_new_tokens: int = Field(default=224, ge=1, le=448)
    """Where a model that writes token by token stops at the latest."""

    @model_validator(mode="before")
    @classmethod
    def _heard(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return HEARD.get(str(value.get("features")), {}) | value

    @model_validator(mode="after")
    def _fits(self) -> TranscriptionOptions:
        if self.features == "whisper":
            if self.sample_rate != WHISPER_RATE:
                raise ValueError(f"sample_rate must be {WHISPER_RATE} for whisper's features")
            return self
        if len(self.tokens) < 2:
            raise ValueError("tokens must be 2 or more")
        if len(set(self.tokens)) < len(self.tokens):
            raise ValueError("tokens must differ from one another")
        if self.blank >= len(self.tokens):
            raise ValueError("blank must be the number of one of the tokens")
        return self


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

    `lengths` counts the valid frames of each row; the model must not look beyond. Its output
    `frames` `INT64[n]` (optional) does the same for the logits. Of waveforms the model gets
    `FP32[n,samples]`, and of whisper's features `FP32[n,mels,3000]` without `lengths`.

    A model that writes token by token answers with `tokens` `INT64[n,m]`, padded with -1, and
    their log-probabilities `scores` `FP32[n,m]`, the end token's last; the folder's `tokenizer.json` makes them text.
    """

    Options = TranscriptionOptions
    Input = Recording
    Output = Transcript
    media = "audio"
    unit = "audio-seconds"
    default_metrics = ("cer", "wer")

    def open(self, manifest: Manifest, folder: Path | None = None) -> None:
        super().open(manifest, folder)
        told = preprocessor(folder) if folder and self.options.features != "log-mel" else {}
        self._normalise = told.get("do_normalize", True) is True
        wrong = {"sampling_rate": self.options.sample_rate}
        if self.options.features == "whisper":
            wrong["feature_size"] = self.options.n_mels
        for name, ours in wrong.items():
            if told.get(name, ours) != ours:
                raise BadPackage(
                    f"algorithm.yaml: the options say {ours}, the folder's preprocessor "
                    f"{name} {told[name]!r}."
                )

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
        return sounds_in_rows(rows)

    def measure(self, inputs: Tensors) -> float:
        audio, rates = inputs.get("audio"), inputs.get("sample_rate")
        if audio is None or rates is None or audio.ndim != 2 or len(audio) != len(rates):
            return 0.0  # it is refused when it is checked
        lengths = np.asarray(inputs.get("length", np.full(len(audio), audio.shape[1])))
        held = np.clip(lengths, 0, audio.shape[1]) / np.maximum(rates, 1)
        return float(held.sum()) if held.shape == rates.shape else 0.0

    def prepare(self, inputs: Tensors) -> Tensors:
        return self._features(self._sounds(inputs))

    def pieces(self, inputs: Tensors, most: int) -> list[Piece]:
        """A window of a long recording each, cut at pauses; of short ones, as many as go together."""
        rate, found = self.options.sample_rate, []
        for row, sound in enumerate(self._sounds(inputs)):
            for begin, end in windows(sound, rate, PART_SECONDS):
                where = {"begin": round(begin / rate, 3), "end": round(end / rate, 3)}
                found.append(Piece(row, sounds_in_rows([(sound[begin:end], rate)]), where))
        if len(found) > len(inputs["audio"]):
            return found
        return super().pieces(inputs, most)

    def joined(self, pieces: list[Piece], answers: list[Tensors]) -> Tensors:
        if not pieces[0].told:
            return super().joined(pieces, answers)
        by_script = self.options.space or self.options.features == "whisper"
        separator = None if by_script else self.options.separator
        return put_together([piece.row for piece in pieces], answers, separator)

    def _sounds(self, inputs: Tensors) -> list[Array]:
        """Each recording at the model's rate."""
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
            rows.append(resample(audio[index, :length], rate, wanted))
        return rows

    def _features(self, rows: list[Array]) -> Tensors:
        rate, n_mels = self.options.sample_rate, self.options.n_mels
        if self.options.features == "waveform":
            return waveforms(rows, rate, normalise=self._normalise)
        if self.options.features == "whisper":
            return whisper_features(rows, n_mels)
        return padded_features([log_mel(samples, rate, n_mels) for samples in rows])

    def finish(self, outputs: Tensors, inputs: Tensors) -> Tensors:
        found = self._read_tokens(outputs) if "tokens" in outputs else self._read_logits(outputs)
        return {
            "text": bytes_array([text.encode() for text, _ in found]),
            "confidence": np.array([sure for _, sure in found], np.float32),
        }

    def _read_tokens(self, outputs: Tensors) -> list[tuple[str, float]]:
        """The texts, and the geometric mean of the probabilities of their tokens."""
        found = []
        for row, scores in zip(outputs["tokens"], outputs["scores"], strict=True):
            text = self._tokenizer.decode(row[row >= 0].tolist(), skip_special_tokens=True)
            # The end token is no text, and how sure the model is of it counts.
            sure = float(np.exp(scores[: int((row >= 0).sum()) + 1].mean(dtype=np.float64)))
            found.append((text.strip(), sure))
        return found

    def _read_logits(self, outputs: Tensors) -> list[tuple[str, float]]:
        logits = outputs["logits"]
        if logits.shape[-1] != len(self.options.tokens):
            raise BadTensor(
                f"The model has {logits.shape[-1]} outputs for {len(self.options.tokens)} tokens."
            )
        frames = outputs.get("frames", np.full(len(logits), logits.shape[1]))
        found = []
        for row, length in zip(logits, frames, strict=True):
            text, sure = greedy_ctc(
                row[: int(length)], self._written, self.options.separator, self.options.blank
            )
            found.append((" ".join(text.split()) if self.options.space else text, sure))
        return found

    @cached_property
    def _written(self) -> list[str]:
        """What each token adds to the text."""
        special = dict.fromkeys(self.options.unwritten, "")
        if self.options.space:
            special[self.options.space] = " "
        return [special.get(token, token) for token in self.options.tokens]

    @cached_property
    def _tokenizer(self) -> Any:
        return open_tokenizer(self.folder)

    def write(self, outputs: Tensors) -> list[Transcript]:
        return [
            Transcript(text.decode(errors="replace"), round(float(sure), 4))
            for text, sure in zip(outputs["text"], outputs["confidence"], strict=True)
        ]

    def samples(self, path: Path) -> list[Sample]:
        found = []
        for said in read_speech(path):
            audio = resample(said.samples, said.rate, self.options.sample_rate)
            inputs = sounds_in_rows([(audio, self.options.sample_rate)])
            found.append(Sample(inputs, Transcript(said.text, 1.0), said.tags, said.name))
        return found


def _check_size(rows: int, longest: int) -> None:
    if rows * longest > MAX_SAMPLES:
        raise TooLarge(
            f"{rows} sounds of up to {longest} samples are too much for one call.",
            hint="Send long recordings one at a time.",
        )
