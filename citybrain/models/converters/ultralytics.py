"""`ultralytics`: a `.pt` checkpoint of a YOLO model, by ultralytics' own ONNX export.

ultralytics is AGPL-3.0 and an extra: it is imported here, in the sandbox's process, and in the
recipe that trains with it; nothing that serves imports it. Its restricted loader
(`ULTRALYTICS_SAFE_LOAD=1`, set by the sandbox) builds only classes that it knows.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from citybrain.core.errors import BadPackage
from citybrain.core.shelf import needs
from citybrain.core.tensors import Tensors
from citybrain.models.converter import CONVERTERS, Converter, Draft, Wanted

TASKS = {"detect": "object-detection", "classify": "image-classification"}


@CONVERTERS.add("ultralytics")
class UltralyticsToOnnx(Converter):
    """Detectors become object-detection, classifiers image-classification; others the task tensor."""

    takes = ()  # a `.pt` whose pickle names ultralytics' classes: admission tells

    def convert(self, source: Path, out: Path, wanted: Wanted) -> Draft:
        with needs():
            import torch
            import ultralytics
            from ultralytics.utils import SAFE_LOAD
        if not SAFE_LOAD:
            raise BadPackage("A .pt file is opened by the restricted loader or not at all.")
        try:
            loaded = ultralytics.YOLO(str(source))
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise BadPackage(f"{source.name} is not a YOLO checkpoint: {reason}") from error
        network = loaded.model.float().eval()
        size = int(wanted.options.get("image_size", 0)) or _size(loaded)
        work = out / "export"
        work.mkdir()
        shutil.copyfile(source, work / "model.pt")
        exported = ultralytics.YOLO(str(work / "model.pt")).export(
            format="onnx", imgsz=size, dynamic=True, simplify=False, verbose=False
        )
        shutil.move(str(exported), out / "model.onnx")
        shutil.rmtree(work)
        names = dict(network.names)
        draft = Draft("model.onnx", runtime="ultralytics", task=TASKS.get(loaded.task, "tensor"), facts={
            "library": f"ultralytics {ultralytics.__version__}, torch {torch.__version__}",
            "task": str(loaded.task), "licence of the library": "AGPL-3.0",
        })  # fmt: skip
        draft.options = {
            "labels": [str(names[index]) for index in sorted(names)], "image_size": size,
        }  # fmt: skip
        draft.free_size = size
        draft.reference = _reference(out / "model.onnx", network)
        return draft


def _size(loaded: Any) -> int:
    told = getattr(loaded.model, "args", {}) or {}
    size = told.get("imgsz", 640) if isinstance(told, dict) else getattr(told, "imgsz", 640)
    return int(max(size)) if isinstance(size, list | tuple) else int(size)


def _reference(exported: Path, network: Any) -> Any:
    """The source network, under the exported graph's names."""
    import onnx
    import torch

    graph = onnx.load_model(str(exported), load_external_data=False).graph
    outputs = [item.name for item in graph.output]

    def reference(inputs: Tensors) -> Tensors:
        with torch.inference_mode():
            found = network(torch.from_numpy(next(iter(inputs.values()))))
        flat = [found] if isinstance(found, torch.Tensor) else list(found)
        arrays = [np.asarray(t) for t in flat if isinstance(t, torch.Tensor)]
        return dict(zip(outputs, arrays, strict=False))

    return reference
