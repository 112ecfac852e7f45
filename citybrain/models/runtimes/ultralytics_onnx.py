"""`ultralytics`: an ONNX graph that ultralytics exported, served without ultralytics (AGPL-3.0).

A detector exported without its end-to-end head answers with raw candidates, `FP32[n,4+c,a]`
(cx, cy, w, h and a score a class). The runtime then keeps the best of each heap of overlapping
candidates, so that the task always sees `FP32[n,k,6]`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from citybrain.core.errors import BadPackage
from citybrain.core.shelf import needs
from citybrain.core.tensors import Array, Signature, Tensors
from citybrain.models.onnx_session import OnnxSession
from citybrain.models.package import Package
from citybrain.models.runtime import RUNTIMES, Runtime

KEPT = 100
LEAST_SCORE = 0.001
OVERLAP = 0.7  # IoU above which two candidates are the same thing; ultralytics' own default
CANDIDATES = 1000
FACTS = ("description", "task", "imgsz", "stride", "names", "version", "license", "date")
_EXPORT = "yolo export model={} format=onnx dynamic=True simplify=False"


@RUNTIMES.add("ultralytics")
class UltralyticsOnnx(Runtime):
    """Weights: one `.onnx` file with its data inside."""

    def load(self, package: Package, *, threads: int = 1) -> None:
        name = package.manifest.weights
        if package.weights.suffix != ".onnx":
            raise BadPackage(
                f"The ultralytics runtime loads .onnx files, not {name}: a .pt file is a pickle.",
                hint=f"Run: {_EXPORT.format(name)}",
            )
        self._session = OnnxSession(package.weights, threads=threads)
        self._facts = _metadata(package.weights.read_bytes())
        shape = [spec.shape for spec in self._session.signature().outputs]
        self._raw = self._facts.get("task") == "detect" and len(shape[0]) == 3 and (
            self._facts.get("end2end", "False") == "False" and shape[0][2] != 6)  # fmt: skip

    def infer(self, inputs: Tensors) -> Tensors:
        outputs = self._session.run(inputs)
        if not self._raw:
            return outputs
        return {name: np.stack([_best(row) for row in array]) for name, array in outputs.items()}

    def stop(self, *, on: bool) -> None:
        self._session.stop(on=on)

    def signature(self) -> Signature:
        return self._session.signature()

    def describe(self) -> dict[str, str]:
        told = {key: self._facts[key][:200] for key in FACTS if key in self._facts}
        return self._session.describe() | told


def _metadata(raw: bytes) -> dict[str, str]:
    """What the exporter wrote about the model."""
    with needs():
        import onnx
    model: Any = onnx.load_model_from_string(raw)
    return {item.key: item.value for item in model.metadata_props}


def _best(candidates: Array) -> Array:
    """Raw candidates of one image `[4+c,a]` to `[KEPT,6]`, by greedy suppression in each class."""
    rows = candidates.T
    scores, kinds = rows[:, 4:].max(axis=1), rows[:, 4:].argmax(axis=1)
    order = np.argsort(-scores, kind="stable")[:CANDIDATES]
    order = order[scores[order] >= LEAST_SCORE]
    centre, half = rows[order, :2], rows[order, 2:4] / 2
    boxes = np.concatenate([centre - half, centre + half], axis=1)
    kinds, scores = kinds[order], scores[order]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    found = np.zeros((KEPT, 6), np.float32)
    alive, kept = np.ones(len(order), bool), 0
    while kept < KEPT and alive.any():
        best = int(alive.argmax())
        found[kept] = (*boxes[best], scores[best], kinds[best])
        kept += 1
        corner = np.maximum(boxes[:, :2], boxes[best, :2])
        shared = (np.minimum(boxes[:, 2:], boxes[best, 2:]) - corner).clip(0).prod(axis=1)
        overlap = shared / np.maximum(area + area[best] - shared, 1e-9)
        alive &= (overlap <= OVERLAP) | (kinds != kinds[best])
        alive[best] = False
    return found
