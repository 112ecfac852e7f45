"""`background-difference`: whatever does not look like most of the image is a thing."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from citybrain.core.tensors import Array
from citybrain.evaluation.metric import BASELINES, Baseline
from citybrain.models.images import decode, resize
from citybrain.models.task import Sample

SIDE = 256  # pixels of the longer side in which patches are sought
BINS = 16  # steps of each colour in which the most frequent one is sought
SMALLEST, LARGEST = 0.001, 0.25  # shares of the image


@BASELINES.add("background-difference")
class BackgroundDifference(Baseline):
    """No learning: distance from the dominant colour, Otsu's threshold (1979), connected patches."""

    tasks = ("object-detection",)

    def answer(self, samples: list[Sample], task: Any) -> list[Any]:
        return [self._answer(sample.inputs["image"].reshape(-1)[0], task) for sample in samples]

    def _answer(self, raw: bytes, task: Any) -> Any:
        image = decode(raw)
        height, width = image.shape[:2]
        scale = max(1.0, max(height, width) / SIDE)
        small = resize(image, max(1, round(width / scale)), max(1, round(height / scale)))
        stretch = np.array([width / small.shape[1], height / small.shape[0]] * 2)
        objects = [
            {"label": task.options.labels[0], "score": score, "box": (stretch * box).tolist()}
            for score, box in _patches(small)
        ]
        answer = {"objects": objects, "width": width, "height": height}
        return msgspec.convert(answer, task.Output)


def _patches(image: Array) -> list[tuple[float, Array]]:
    """Score and frame of each patch unlike the background, the most unlike first."""
    from scipy import ndimage

    distance = np.abs(image.astype(np.int32) - _background(image)).max(axis=2)
    mask = ndimage.binary_opening(distance > _otsu(distance), iterations=1)
    labels, _ = ndimage.label(mask)
    found = []
    for number, place in enumerate(ndimage.find_objects(labels), 1):
        down, across = place
        area = (down.stop - down.start) * (across.stop - across.start)
        if not SMALLEST <= area / mask.size <= LARGEST:
            continue
        inside = labels[place] == number
        filled = float(inside.mean())  # a vehicle fills its frame, a lane line does not
        unlike = float(distance[place][inside].mean()) / 255
        box = np.array([across.start, down.start, across.stop, down.stop])
        found.append((filled * (0.5 + unlike / 2), box))
    return sorted(found, key=lambda patch: -patch[0])[:100]


def _background(image: Array) -> Array:
    """The mean of the pixels in the fullest bin of a coarse colour histogram."""
    pixels = image.reshape(-1, 3)
    bins = (pixels // (256 // BINS)).astype(np.int64) @ np.array([BINS * BINS, BINS, 1])
    common = pixels[bins == np.bincount(bins).argmax()]
    mean: Array = common.mean(axis=0).round().astype(np.int32)
    return mean


def _otsu(values: Array) -> int:
    """The threshold that parts the values into the two most compact heaps."""
    share = np.bincount(values.ravel(), minlength=256) / values.size
    weight = share.cumsum()
    mean = (share * np.arange(256)).cumsum()
    between = (mean[-1] * weight - mean) ** 2 / np.maximum(weight * (1 - weight), 1e-12)
    return int(between.argmax())
