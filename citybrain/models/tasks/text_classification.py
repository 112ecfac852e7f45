"""`text-classification`: a text to one of a few classes, or to nobody when the model is unsure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from citybrain.core.errors import ModelFailed
from citybrain.core.tensors import Array, Signature, Tensors, TensorSpec, bytes_array
from citybrain.models.datasets.labelled_text import MAX_CHARACTERS, read_labelled_text
from citybrain.models.package import Strict
from citybrain.models.task import TASKS, Item, Sample, Task
from citybrain.models.texts import decode_texts, encode_texts
from citybrain.models.tokenizer import open_tokenizer, padding_id

LENGTHS = (16, 32, 64, 128, 256, 512)
"""Token counts that requests are padded to: few shapes, so that requests share model calls."""


class TextOptions(Strict):
    """The classes in the order of the logits, and when to answer at all."""

    labels: list[str] = Field(min_length=2)
    max_length: int = Field(default=128, ge=8, le=512)
    """Tokens that the model reads; what follows in a longer text is not seen."""
    temperature: float = Field(default=1.0, gt=0.0, le=100.0, allow_inf_nan=False)
    """Divides the logits (Guo et al. 2017, On Calibration of Modern Neural Networks)."""
    abstain_below: float = Field(default=0.0, ge=0.0, le=1.0)
    """With a lower top probability the answer is `abstained`: a person should look."""
    titles: dict[str, str] = Field(default_factory=dict)
    """A name for people for each label, for consoles."""
    example: str = Field(default="Hello", min_length=1, max_length=MAX_CHARACTERS)

    @model_validator(mode="after")
    def _distinct(self) -> TextOptions:
        if len(set(self.labels)) < len(self.labels) or not all(self.labels):
            raise ValueError("labels must not be empty and must differ from one another")
        return self


class Text(Item):
    """A text of 1 to 2000 characters, blanks at its ends not counted."""

    text: str


class TextClass(Item):
    """The class and the probability of each; an abstained answer has the label ""."""

    label: str
    probabilities: dict[str, float]
    abstained: bool = False


@TASKS.add("text-classification")
class TextClassification(Task):
    """Model: `input_ids` and `attention_mask` `INT64[n,t]` to `logits` `FP32[n,c]`.

    `tokenizer.json` (the format of the `tokenizers` library) lies beside the weights.
    """

    Options = TextOptions
    Input = Text
    Output = TextClass
    unit = "texts"
    default_metrics = ("macro-f1", "answered-accuracy", "answered-share", "ece")

    _tokenizer: Any = None

    def signature(self) -> Signature:
        return Signature(
            (TensorSpec("text", "BYTES", (-1,)),),
            (
                TensorSpec("label", "BYTES", (-1,)),
                TensorSpec("probabilities", "FP32", (-1, len(self.options.labels))),
                TensorSpec("abstained", "BOOL", (-1,)),
            ),
        )

    def example(self) -> list[Text]:
        return [Text(self.options.example)]

    def read(self, items: list[Text]) -> Tensors:
        return {"text": encode_texts([item.text for item in items], MAX_CHARACTERS)}

    def prepare(self, inputs: Tensors) -> Tensors:
        tokenizer = self._open_tokenizer()
        texts = decode_texts(inputs["text"], MAX_CHARACTERS)
        ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
        longest = max(map(len, ids))
        fitting = [length for length in LENGTHS if longest <= length]
        width = min(fitting[0] if fitting else longest, self.options.max_length)
        input_ids = np.full((len(ids), width), self._pad, dtype=np.int64)
        mask = np.zeros((len(ids), width), dtype=np.int64)
        for row, found in enumerate(ids):
            input_ids[row, : len(found)] = found
            # A text of which the tokenizer keeps nothing still shows the model one token.
            mask[row, : max(1, len(found))] = 1
        return {"input_ids": input_ids, "attention_mask": mask}

    def finish(self, outputs: Tensors, inputs: Tensors) -> Tensors:
        labels = self.options.labels
        logits = np.asarray(outputs["logits"], dtype=np.float64)
        if logits.ndim != 2 or logits.shape[1] != len(labels):
            raise ModelFailed(
                f"The model's logits have the shape {list(logits.shape)[:4]}; "
                f"algorithm.yaml lists {len(labels)} labels."
            )
        if not np.isfinite(logits).all():
            raise ModelFailed("The model answered with NaN or infinity.")
        probabilities = softmax(logits / self.options.temperature)
        best = probabilities.argmax(axis=1)
        abstained = probabilities.max(axis=1) < self.options.abstain_below
        names = [
            b"" if silent else labels[index].encode()
            for index, silent in zip(best, abstained, strict=True)
        ]
        return {
            "label": bytes_array(names),
            "probabilities": probabilities.astype(np.float32),
            "abstained": abstained,
        }

    def write(self, outputs: Tensors) -> list[TextClass]:
        names = self.options.labels
        return [
            TextClass(label.decode(), dict(zip(names, row.tolist(), strict=True)), bool(silent))
            for label, row, silent in zip(
                outputs["label"], outputs["probabilities"], outputs["abstained"], strict=True
            )
        ]

    def samples(self, path: Path) -> list[Sample]:
        return [
            Sample(
                {"text": bytes_array([row.text.encode()])},
                TextClass(row.label, {}),
                row.tags,
                f"line {row.line}",
            )
            for row in read_labelled_text(path)
        ]

    def _open_tokenizer(self) -> Any:
        if self._tokenizer is None:
            tokenizer = open_tokenizer(self.folder)
            tokenizer.enable_truncation(self.options.max_length)
            self._pad = padding_id(tokenizer)
            tokenizer.no_padding()
            self._tokenizer = tokenizer
        return self._tokenizer


def softmax(logits: Array) -> Array:
    """Each row's probabilities; the largest logit is taken off first, so that nothing overflows."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
