"""`speech-synthesis`: a text to a recording of it."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from pydantic import Field

from citybrain.core.errors import BadTensor, ModelFailed
from citybrain.core.tensors import (
    Array,
    Signature,
    Tensors,
    TensorSpec,
    bytes_array,
    stacked,
)
from citybrain.models.audio import RATES, encode_wav
from citybrain.models.package import Strict
from citybrain.models.task import TASKS, Item, Piece, Task
from citybrain.models.texts import decode_texts, encode_texts, sentences
from citybrain.models.tokenizer import Characters

MOST = 2_000
STEP = 64
"""Ids are padded to a multiple of so many, so that more requests share model calls."""


class SpeechOptions(Strict):
    """How the model sounds, and how much it says at once."""

    sample_rate: int = Field(default=16_000, ge=RATES.start, le=48_000)
    speakers: int = Field(default=1, ge=1, le=10_000, description="Voices of the model.")
    max_characters: int = Field(default=500, ge=1, le=MOST)
    example: str = Field(default="Hello", min_length=1, max_length=MOST)


class Line(Item):
    """What is said, and by which of the model's voices (0 is the first)."""

    text: str
    speaker: int = 0


class Speech(Item):
    """A WAV file of 16 bits, mono; base64 in JSON."""

    audio: bytes
    sample_rate: int
    seconds: float


@TASKS.add("speech-synthesis")
class SpeechSynthesis(Task):
    """Model: `input_ids`, `attention_mask` `INT64[n,w]` and `speaker_id` `INT64[n]` to sound.

    It answers with `waveform` `FP32[n,t]` in -1..1 and `lengths` `INT64[n]`, the samples of each
    row. `tokenizer.json` or `vocab.json` lies beside the weights. No metric is the default: how
    good speech is, people say, and a data set has no one true recording of a text.
    """

    Options = SpeechOptions
    Input = Line
    Output = Speech
    unit = "texts"

    def signature(self) -> Signature:
        return Signature(
            (
                TensorSpec("text", "BYTES", (-1,)),
                TensorSpec("speaker", "INT32", (-1,), optional=True),
            ),
            (
                TensorSpec("audio", "FP32", (-1, -1)),
                TensorSpec("length", "INT32", (-1,)),
                TensorSpec("sample_rate", "INT32", (-1,)),
            ),
        )

    def example(self) -> list[Line]:
        return [Line(self.options.example)]

    def read(self, items: list[Line]) -> Tensors:
        speakers = [item.speaker for item in items]
        self._check_speakers(speakers)
        return {
            "text": encode_texts([item.text for item in items], self.options.max_characters),
            "speaker": np.array(speakers, np.int32),
        }

    def prepare(self, inputs: Tensors) -> Tensors:
        texts = decode_texts(inputs["text"], self.options.max_characters)
        speakers = inputs.get("speaker", np.zeros(len(texts), np.int32))
        self._check_speakers(speakers.tolist())
        rows = [self._characters.encode(text) for text in texts]
        for index, row in enumerate(rows):
            if not row:
                raise BadTensor(
                    f"Item {index}: the model knows no character of {texts[index][:40]!r}.",
                    hint="Send a text in the language and script that it was trained on.",
                )
        width = -(-max(map(len, rows)) // STEP) * STEP
        ids, mask = np.zeros((2, len(rows), width), np.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = 1
        return {"input_ids": ids, "attention_mask": mask, "speaker_id": speakers.astype(np.int64)}

    def pieces(self, inputs: Tensors, most: int) -> list[Piece]:
        """A sentence each: the first can be heard while the others are spoken."""
        self.prepare(inputs)  # what is wrong with a later sentence is said before the first
        texts = decode_texts(inputs["text"], self.options.max_characters)
        speakers = inputs.get("speaker", np.zeros(len(texts), np.int32))
        return [
            Piece(
                row,
                {"text": bytes_array([sentence.encode()]), "speaker": speakers[row : row + 1]},
            )
            for row, text in enumerate(texts)
            for sentence in sentences(text)
            if self._characters.encode(sentence)
        ]

    def joined(self, pieces: list[Piece], answers: list[Tensors]) -> Tensors:
        sounds: dict[int, list[Array]] = {}
        for piece, answer in zip(pieces, answers, strict=True):
            sound = answer["audio"][0, : int(answer["length"][0])]
            sounds.setdefault(piece.row, []).append(sound)
        rows = [np.concatenate(sounds[row]) for row in sorted(sounds)]
        return {
            "audio": stacked([row[None] for row in rows]),
            "length": np.array([len(row) for row in rows], np.int32),
            "sample_rate": np.full(len(rows), self.options.sample_rate, np.int32),
        }

    def finish(self, outputs: Tensors, inputs: Tensors) -> Tensors:
        lengths = outputs["lengths"]
        # The model's answers to a whole batch are as wide as the longest of them.
        audio = outputs["waveform"][:, : int(lengths.max())].astype(np.float32)
        if not np.isfinite(audio).all():
            raise ModelFailed("The model answers NaN or infinity to this text.")
        return {
            "audio": np.clip(audio, -1.0, 1.0),
            "length": lengths.astype(np.int32),
            "sample_rate": np.full(len(audio), self.options.sample_rate, np.int32),
        }

    def write(self, outputs: Tensors) -> list[Speech]:
        return [
            Speech(encode_wav(row[:length], rate), rate, round(length / rate, 3))
            for row, length, rate in zip(
                outputs["audio"],
                outputs["length"].tolist(),
                outputs["sample_rate"].tolist(),
                strict=True,
            )
        ]

    def _check_speakers(self, speakers: list[int]) -> None:
        most = self.options.speakers
        for index, speaker in enumerate(speakers):
            if not 0 <= speaker < most:
                raise BadTensor(f"Item {index}: speaker is 0 to {most - 1}, not {speaker}.")

    @cached_property
    def _characters(self) -> Characters:
        return Characters(self.folder)
