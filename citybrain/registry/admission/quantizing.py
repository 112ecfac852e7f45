"""A version's ONNX graph with its large weights as 8-bit integers: smaller, often faster, less exact.

Dynamic quantisation (onnxruntime): weights are stored as INT8, activations are quantised while the
model runs, so that no calibration data are needed. Convolutions stay as they are: they get slower.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from citybrain.core.errors import BadPackage
from citybrain.core.shelf import needs
from citybrain.models.converter import deviation
from citybrain.models.onnx_session import OnnxSession
from citybrain.models.package import Package
from citybrain.models.predictor import Predictor
from citybrain.models.variants import variants
from citybrain.registry.admission.converting import write_manifest
from citybrain.registry.admission.examining import milliseconds
from citybrain.registry.admission.graphs import check_graph
from citybrain.registry.admission.samples import real_calls

OPERATORS = ["MatMul", "Gemm", "Gather", "LSTM", "Attention", "EmbedLayerNormalization"]


def quantize(work: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Write the package in `work/in` again with an INT8 graph into `work/out`; sizes, times, gaps."""
    source, out = work / "in", work / "out"
    package = Package.open(source)
    if package.weights.suffix != ".onnx":
        raise BadPackage(
            f"{package.manifest.weights} is no ONNX graph; only ONNX versions become INT8.",
            hint="First: citybrain convert NAME@VERSION --to onnx",
        )
    operators = check_graph(package.weights)["operators"]
    if not set(OPERATORS).intersection(operators):
        raise _nothing_to_gain(package, trees=any(o.startswith("TreeEnsemble") for o in operators))
    shutil.copytree(source, out)
    with needs():
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic
    target = out / package.manifest.weights
    target.unlink()
    graph = onnx.load(package.weights)
    # torch's exporter notes shapes that the quantiser's turned weights contradict; it infers its own.
    del graph.graph.value_info[:]
    try:
        quantize_dynamic(graph, target, weight_type=QuantType.QInt8, op_types_to_quantize=OPERATORS)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise BadPackage(f"The graph cannot be quantised: {reason}") from error
    sizes = package.weights.stat().st_size, target.stat().st_size
    if sizes[1] >= sizes[0]:
        raise _nothing_to_gain(package)
    write_manifest(source, out, str(request["parent"]))
    predictor = Predictor.open(source)
    calls, real = variants(predictor.task), real_calls(predictor.task, work)
    return {
        "kind": "int8", "converter": "int8", "source": str(request["parent"]),
        "parity": deviation(
            OnnxSession(package.weights).run, OnnxSession(target), calls + real.calls
        ),
        "calls": len(calls), "samples": len(real.calls), "unread": real.unread, "bytes": sizes,
        "speed": [milliseconds(Predictor.open(folder)) for folder in (source, out)],
    }  # fmt: skip


def _nothing_to_gain(package: Package, *, trees: bool = False) -> BadPackage:
    weights = package.manifest.weights
    if trees:
        return BadPackage(
            f"{weights} decides by trees, which hold thresholds and no weights to make smaller.",
            hint="Train it with fewer or shallower trees, and register that as the next version.",
        )
    return BadPackage(
        f"{weights} would not get smaller: it has no large weights to quantise.",
        hint="Serve it as it is.",
    )
