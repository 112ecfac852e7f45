"""Torch programs and networks as ONNX, and the source kept for comparison."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from citybrain.core.errors import BadPackage
from citybrain.core.tensors import Tensors
from citybrain.models.converter import Draft


def as_module(network: Any, forward: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """A module whose weights are `network`'s and whose `forward` takes tensors by name."""
    import torch

    class Named(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, tensors: dict[str, Any]) -> dict[str, Any]:
            return forward(tensors)

    return Named().eval()


def export_network(module: Any, samples: list[Tensors], target: Path) -> None:
    """Write what `as_module` made as ONNX, inputs and outputs by name.

    An axis that differs among the samples takes any size; the others keep theirs.
    """
    import torch
    from torch.export import Dim

    # Sizes of 0 and 1 are special to the exporter, so the largest sample shows it the way.
    largest = max(samples, key=lambda sample: sum(array.size for array in sample.values()))
    given = {n: torch.from_numpy(np.array(array, order="C")) for n, array in largest.items()}
    free = {
        name: {
            axis: Dim.DYNAMIC
            for axis in range(array.ndim)
            if len({sample[name].shape[axis] for sample in samples}) > 1
        }
        for name, array in largest.items()
    }
    try:
        with torch.inference_mode():
            outputs = list(module(given))
        with torch.no_grad():
            program = torch.export.export(module, (given,), dynamic_shapes=(free,))
        exported = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=list(given), output_names=outputs
        )
        assert exported is not None
        exported.save(str(target))
    except Exception as error:
        raise BadPackage(
            f"torch cannot export this network to ONNX: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def to_onnx(program: Any, out: Path, facts: dict[str, str]) -> Draft:
    """Write an exported program as ONNX."""
    import torch

    try:
        exported = torch.onnx.export(program, dynamo=True, verbose=False)
        assert exported is not None
        exported.save(str(out / "model.onnx"))
    except Exception as error:
        raise BadPackage(
            f"torch cannot export this program to ONNX: {_first_line(error)}",
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
