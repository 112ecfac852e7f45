"""`object-detection`: an image to the things in it, each with a class, a score and a frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from citybrain.core.errors import ModelFailed
from citybrain.core.tensors import Array, Signature, Tensors, TensorSpec, bytes_array
from citybrain.models.datasets.yolo_folder import YoloFolder, read_yolo
from citybrain.models.images import Fit, decode, encode_png, image_size, letterbox
from citybrain.models.package import Strict
from citybrain.models.task import TASKS, Item, Sample, Task

MAX_OBJECTS = 100
"""Objects in one answer; the most certain ones come first."""


class DetectionOptions(Strict):
    """The classes in the order of the model's ids, its square input, the least score to report."""

    labels: list[str] = Field(min_length=1)
    image_size: int = Field(ge=32, le=2048, multiple_of=32)
    confidence: float = Field(default=0.25, ge=0.0, le=1.0)


class DetectionImage(Item):
    """An encoded image: JPEG, PNG, WebP or BMP (base64 in JSON)."""

    image: bytes


class DetectedObject(Item):
    """One thing: `box` is x1, y1, x2, y2 in pixels of the upright original."""

    label: str
    score: float
    box: tuple[float, float, float, float]


class Detections(Item):
    """The things in one image, the most certain first, and the image's size in pixels."""

    objects: list[DetectedObject]
    width: int
    height: int


@TASKS.add("object-detection")
class ObjectDetection(Task):
    """Model: `images` `FP32[n,3,S,S]` in 0..1, RGB, letterboxed, to one output `FP32[n,k,6]`.

    A row of the output is x1, y1, x2, y2 in pixels of the square, score, class id, with doubles
    already removed (what ultralytics calls an end-to-end head).
    """

    Options = DetectionOptions
    Input = DetectionImage
    Output = Detections
    media = "image"
    unit = "images"
    default_metrics = ("map50",)

    def signature(self) -> Signature:
        return Signature(
            (TensorSpec("image", "BYTES", (-1,)),),
            (
                TensorSpec("boxes", "FP32", (-1, MAX_OBJECTS, 4)),
                TensorSpec("scores", "FP32", (-1, MAX_OBJECTS)),
                TensorSpec("labels", "BYTES", (-1, MAX_OBJECTS)),
                TensorSpec("count", "INT32", (-1,)),
                TensorSpec("size", "INT32", (-1, 2)),
            ),
        )

    def example(self) -> list[DetectionImage]:
        # Small, so that the JSON body that people copy stays readable.
        picture = np.full((32, 48, 3), 120, np.uint8)
        picture[12:22, 14:34] = (200, 30, 30)
        return [DetectionImage(encode_png(picture))]

    def read(self, items: list[DetectionImage]) -> Tensors:
        return self.read_media([item.image for item in items])

    def read_media(self, files: list[bytes]) -> Tensors:
        return {"image": bytes_array(files)}

    def prepare(self, inputs: Tensors) -> Tensors:
        size = self.options.image_size
        images = np.empty((len(inputs["image"]), 3, size, size), np.float32)
        for index, raw in enumerate(inputs["image"]):
            square = letterbox(decode(raw, index, at_least=size), size)
            np.multiply(square.transpose(2, 0, 1), np.float32(1 / 255), out=images[index])
        return {"images": images}

    def finish(self, outputs: Tensors, inputs: Tensors) -> Tensors:
        found = next(iter(outputs.values()))
        rows = len(inputs["image"])
        if found.ndim != 3 or found.shape[0] != rows or found.shape[2] != 6:
            raise ModelFailed(
                "The model's output is not FP32[n,k,6].",
                hint="Export the detector end to end, with doubles removed.",
            )
        # The model sees only the square: the original's size is read again, from its header.
        sizes = [image_size(raw, index) for index, raw in enumerate(inputs["image"])]
        boxes = np.zeros((rows, MAX_OBJECTS, 4), np.float32)
        scores = np.zeros((rows, MAX_OBJECTS), np.float32)
        labels = bytes_array([b""] * (rows * MAX_OBJECTS), (rows, MAX_OBJECTS))
        count = np.zeros(rows, np.int32)
        for index, (width, height) in enumerate(sizes):
            fit = Fit(width, height, self.options.image_size)
            kept, frames = self._kept(found[index], fit)
            count[index] = k = len(kept)
            boxes[index, :k] = frames
            scores[index, :k] = kept[:, 4]
            labels[index, :k] = [self.options.labels[int(kind)].encode() for kind in kept[:, 5]]
        return {
            "boxes": boxes,
            "scores": scores,
            "labels": labels,
            "count": count,
            "size": np.array(sizes, np.int32).reshape(rows, 2),
        }

    def _kept(self, found: Array, fit: Fit) -> tuple[Array, Array]:
        """The model's rows worth reporting, the most certain first, and their frames."""
        kinds = found[:, 5]
        good = np.isfinite(found).all(axis=1) & (found[:, 4] >= self.options.confidence)
        good &= (kinds >= 0) & (kinds < len(self.options.labels))
        kept = found[good]
        kept = kept[np.argsort(-kept[:, 4], kind="stable")]
        frames = fit.back(kept[:, :4])
        # What lies in the grey bands alone has no area in the original.
        real = ((frames[:, 2:] - frames[:, :2]) > 0).all(axis=1)
        return kept[real][:MAX_OBJECTS], frames[real][:MAX_OBJECTS]

    def write(self, outputs: Tensors) -> list[Detections]:
        answers = []
        for row, count in enumerate(outputs["count"].tolist()):
            objects = [
                DetectedObject(label.decode(), score, tuple(box))
                for label, score, box in zip(
                    outputs["labels"][row, :count],
                    outputs["scores"][row, :count].tolist(),
                    outputs["boxes"][row, :count].tolist(),
                    strict=True,
                )
            ]
            width, height = outputs["size"][row].tolist()
            answers.append(Detections(objects, width, height))
        return answers

    def samples(self, path: Path) -> list[Sample]:
        folder = read_yolo(path)
        label = self._labels(folder)
        samples = []
        for image in folder.images:
            objects = [
                DetectedObject(label[kind], 1.0, tuple(box))
                for kind, box in zip(image.classes.tolist(), image.boxes().tolist(), strict=True)
            ]
            inputs: Tensors = {"image": bytes_array([image.read()])}
            truth = Detections(objects, image.width, image.height)
            samples.append(Sample(inputs, truth, image.tags, image.name))
        return samples

    def _labels(self, folder: YoloFolder) -> dict[int, str]:
        """Our label of each class id of a folder: by its name, else by its number."""
        ours = {label.lower(): label for label in self.options.labels}
        kinds = {kind for image in folder.images for kind in image.classes.tolist()}
        if len(kinds) == 1 and len(ours) == 1:  # one class each: their `Car` is our `vehicle`
            return dict.fromkeys(kinds, self.options.labels[0])
        by_number = dict(enumerate(self.options.labels))
        return {
            kind: ours.get(folder.names[kind].lower(), folder.names[kind])
            if kind in folder.names
            else by_number.get(kind, f"class {kind}")
            for kind in kinds
        }
