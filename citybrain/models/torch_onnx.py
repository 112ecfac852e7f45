"""An exported torch program as ONNX, with the program kept for comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from citybrain.core.errors import BadPackage
from citybrain.core.tensors import Tensors
from citybrain.models.converter import Draft


def to_onnx(program: Any, out: Path, facts: dict[str, str]) -> Draft:
    """Write an exported program as ONNX."""
    import torch

    try:
        exported = torch.onnx.export(program, dynamo=True, verbose=False)
        assert exported is not None
        exported.save(str(out / "model.onnx"))
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise BadPackage(
            f"torch cannot export this program to ONNX: {reason}",
            hint="Export it yourself with torch.onnx.export(..., dynamo=True).",
        ) from error
    model = program.module()
    graph = exported.model.graph
    inputs, outputs = ([str(v.name) for v in side] for side in (graph.inputs, graph.outputs))
    first = [value.shape[0] if value.shape else None for value in graph.inputs]
    fixed = [size for size in first if isinstance(size, int)]

    def reference(given: Tensors) -> Tensors:
        with torch.inference_mode():
            found = model(*(torch.from_numpy(given[name]) for name in inputs))
        values = found.values() if isinstance(found, dict) else found
        flat = [found] if isinstance(found, torch.Tensor) else list(values)
        return {name: value.numpy() for name, value in zip(outputs, flat, strict=True)}

    return Draft(
        "model.onnx", max_batch=min([*fixed, 64]), facts=facts, reference=reference,
        options={"batch": min(fixed)} if fixed else {},
    )  # fmt: skip
