"""A version's ONNX graph with its large weights as 8-bit integers: smaller, often faster, less exact.

Dynamic quantisation (onnxruntime): weights are stored as INT8, activations are quantised while the
model runs, so that no calibration data are needed. Convolutions stay as they are: they get slower.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from citybrain.core.errors import BadPackage
from citybrain.core.shelf import needs
from citybrain.models.converter import deviation, samples_for
from citybrain.models.onnx_session import OnnxSession
from citybrain.models.package import MANIFEST, Package
from citybrain.models.predictor import Predictor
from citybrain.registry.admission.examining import milliseconds

OPERATORS = ["MatMul", "Gemm", "Gather", "LSTM", "Attention", "EmbedLayerNormalization"]


def quantize(work: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Write the package in `work/in` again with an INT8 graph into `work/out`; sizes, times, gaps."""
    source, out = work / "in", work / "out"
    package = Package.open(source)
    if package.weights.suffix != ".onnx":
        raise BadPackage(
            f"{package.manifest.weights} is no ONNX graph; only ONNX versions become INT8.",
            hint="Register it as ONNX or .pt2 first.",
        )
    shutil.copytree(source, out)
    with needs():
        from onnxruntime.quantization import QuantType, quantize_dynamic
    target = out / package.manifest.weights
    target.unlink()
    try:
        quantize_dynamic(
            package.weights, target, weight_type=QuantType.QInt8, op_types_to_quantize=OPERATORS
        )
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise BadPackage(f"The graph cannot be quantised: {reason}") from error
    sizes = package.weights.stat().st_size, target.stat().st_size
    if sizes[1] >= sizes[0]:
        raise BadPackage(
            f"{package.manifest.weights} would not get smaller: it has no large weights to quantise."
        )
    _write_lineage(out, str(request["parent"]))
    before, after = OnnxSession(package.weights), OnnxSession(target)
    samples = samples_for(before.signature(), free_size=int(request["free_size"]))
    return {
        "kind": "int8", "converter": "int8", "source": str(request["parent"]),
        "parity": deviation(before.run, after, samples),
        "bytes": sizes,
        "speed": [milliseconds(Predictor.open(folder)) for folder in (source, out)],
    }  # fmt: skip


def _write_lineage(out: Path, parent: str) -> None:
    path = out / MANIFEST
    manifest = yaml.safe_load(path.read_text(encoding="utf-8"))
    manifest["lineage"] = {**manifest.get("lineage", {}), "source": parent}
    text = yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")
