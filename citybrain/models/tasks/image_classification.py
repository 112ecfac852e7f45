"""`image-classification`: an image to one of a few classes, with probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from citybrain.core.errors import BadData, ModelFailed
from citybrain.core.tensors import Signature, Tensors, TensorSpec, bytes_array
from citybrain.models.datasets.image_folders import read_image_folders
from citybrain.models.images import decode, encode_png, resize
from citybrain.models.package import Strict
from citybrain.models.task import TASKS, Item, Sample, Task

Three = Annotated[list[float], Field(min_length=3, max_length=3)]
Positive = Annotated[list[Annotated[float, Field(gt=0.0)]], Field(min_length=3, max_length=3)]


class ImageClassOptions(Strict):
    """The classes, the model's square input, and how its pixels (0..1) were normalised."""

    labels: list[str] = Field(min_length=2)
    image_size: int = Field(ge=8, le=2048)
    mean: Three = Field(default=[0.0, 0.0, 0.0])
    std: Positive = Field(default=[1.0, 1.0, 1.0])


class ImageToClassify(Item):
    """An encoded image: JPEG, PNG, WebP or BMP (base64 in JSON)."""

    image: bytes


class ImageClass(Item):
    """The most probable class and the probability of each."""

    label: str
    probabilities: dict[str, float]


@TASKS.add("image-classification")
class ImageClassification(Task):
    """Model: `images` `FP32[n,3,S,S]`, RGB, normalised, to one output of logits `FP32[n,c]`."""

    Options = ImageClassOptions
    Input = ImageToClassify
    Output = ImageClass
    media = "image"
    unit = "images"
    default_metrics = ("macro-f1", "accuracy")

    def signature(self) -> Signature:
        return Signature(
            (TensorSpec("image", "BYTES", (-1,)),),
            (
                TensorSpec("label", "BYTES", (-1,)),
                TensorSpec("probabilities", "FP32", (-1, len(self.options.labels))),
            ),
        )

    def example(self) -> list[ImageToClassify]:
        return [ImageToClassify(encode_png(np.full((16, 16, 3), (60, 120, 180), np.uint8)))]

    def read(self, items: list[ImageToClassify]) -> Tensors:
        return self.read_media([item.image for item in items])

    def read_media(self, files: list[bytes]) -> Tensors:
        return {"image": bytes_array(files)}

    def prepare(self, inputs: Tensors) -> Tensors:
        size = self.options.image_size
        mean = np.array(self.options.mean, np.float32)
        std = np.array(self.options.std, np.float32)
        images = np.empty((len(inputs["image"]), 3, size, size), np.float32)
        for index, raw in enumerate(inputs["image"]):
            square = resize(decode(raw, index, at_least=size), size, size)
            images[index] = ((square / np.float32(255) - mean) / std).transpose(2, 0, 1)
        return {"images": images}

    def finish(self, outputs: Tensors, inputs: Tensors) -> Tensors:
        logits = next(iter(outputs.values())).astype(np.float32)
        labels = [label.encode() for label in self.options.labels]
        if logits.shape != (len(inputs["image"]), len(labels)):
            raise ModelFailed(f"The model's output is not FP32[n,{len(labels)}].")
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
        best = probabilities.argmax(axis=1)
        return {
            "label": bytes_array([labels[i] for i in best]),
            "probabilities": probabilities,
        }

    def write(self, outputs: Tensors) -> list[ImageClass]:
        names = self.options.labels
        return [
            ImageClass(label.decode(), dict(zip(names, row.tolist(), strict=True)))
            for label, row in zip(outputs["label"], outputs["probabilities"], strict=True)
        ]

    def samples(self, path: Path) -> list[Sample]:
        samples = []
        for image in read_image_folders(path):
            if image.label not in self.options.labels:
                raise BadData(
                    f"{image.name}: the algorithm knows no class {image.label[:80]!r}.",
                    hint=f"Its classes are: {', '.join(self.options.labels)[:300]}.",
                )
            inputs: Tensors = {"image": bytes_array([image.raw])}
            samples.append(Sample(inputs, ImageClass(image.label, {}), {}, image.name))
        return samples
