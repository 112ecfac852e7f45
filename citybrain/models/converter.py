"""What a converter is: a framework's own file in, ONNX out, and the source kept for comparison.

Converters run in the sandbox of admission and nowhere else. What they are given was looked at before
(a pickle's names are on the allow-list), and what they write is examined afterwards.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from citybrain.core.errors import BadPackage
from citybrain.core.shelf import Shelf
from citybrain.core.tensors import DTYPES, FLOATS, Signature, Tensors
from citybrain.models.onnx_session import OnnxSession

RELATIVE = 1e-3
"""Largest deviation that still counts as the same model, relative to the output's own size."""
ROWS = (1, 2, 5)


@dataclass(frozen=True)
class Wanted:
    """What the developer said besides the file: `--task`, `--architecture`, `--option`."""

    name: str
    task: str = ""
    architecture: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Draft:
    """What a converter made of a source: files in `out`, and what a manifest says of them."""

    weights: str
    runtime: str = "onnx"
    task: str = ""
    """Empty: the file does not tell, and the developer must."""
    options: dict[str, Any] = field(default_factory=dict)
    max_batch: int = 64
    free_size: int = 8
    """What a sample has where the model takes any size (a detector: its square)."""
    facts: dict[str, str] = field(default_factory=dict)
    reference: Callable[[Tensors], Tensors] | None = None
    """The source model on the converted one's inputs, under the converted one's output names."""


class Converter(ABC):
    """One kind of source. A subclass is one file in `converters/`."""

    takes: ClassVar[tuple[str, ...]]
    """Suffixes of the file."""

    @abstractmethod
    def convert(self, source: Path, out: Path, wanted: Wanted) -> Draft:
        """Write ONNX into `out`; BadPackage says what is wrong and how to save it instead."""


CONVERTERS: Shelf[Converter] = Shelf("converter", "citybrain.models.converters")


def samples_for(signature: Signature, *, free_size: int = 8, seed: int = 20) -> list[Tensors]:
    """Inputs of one, two and five rows, standard normal or small integers, from a fixed seed."""
    rng = np.random.default_rng(seed)
    found = []
    for rows in ROWS:
        tensors: Tensors = {}
        for spec in signature.inputs:
            shape = (rows, *(free_size if size < 0 else size for size in spec.shape[1:]))
            dtype = DTYPES[spec.dtype]
            if spec.dtype in FLOATS:
                tensors[spec.name] = rng.standard_normal(shape).astype(dtype)
            elif dtype.kind in "iub":
                tensors[spec.name] = rng.integers(0, 2, shape).astype(dtype)
            else:
                raise BadPackage(f"Input {spec.name!r} holds {spec.dtype}, which is not compared.")
        found.append(tensors)
    return found


def parity(
    reference: Callable[[Tensors], Tensors], session: OnnxSession, samples: list[Tensors]
) -> dict[str, dict[str, float]]:
    """`deviation`, and BadPackage when an output is not the same within 1e-3 of its size."""
    report = deviation(reference, session, samples)
    for name, gap in report.items():
        if not gap["relative"] <= RELATIVE:  # NaN is not
            raise BadPackage(
                f"Output {name!r} deviates by {gap['relative']:.2g} of its size after conversion "
                f"(allowed: {RELATIVE:g}).",
                hint="Export it to ONNX yourself, and compare the two.",
            )
    return report


def deviation(
    reference: Callable[[Tensors], Tensors], session: OnnxSession, samples: list[Tensors]
) -> dict[str, dict[str, float]]:
    """How far the converted model is from its source, for each output over all samples.

    `max` and `mean` are absolute, `relative` is `max` divided by the largest absolute value that
    the source gave (at least 1e-6). BadPackage when outputs differ in names or shapes.
    """
    gaps: dict[str, list[NDArray[np.float64]]] = {}
    sizes: dict[str, float] = {}
    for inputs in samples:
        wanted, got = reference(inputs), session.run(inputs)
        if wanted.keys() != got.keys():
            raise BadPackage("The converted model has other outputs than its source.")
        for name, array in wanted.items():
            if array.shape != got[name].shape:
                raise BadPackage(
                    f"Output {name!r} has the shape {list(got[name].shape)} after conversion, "
                    f"{list(array.shape)} before."
                )
            gap = np.abs(got[name].astype(np.float64) - array.astype(np.float64))
            gaps.setdefault(name, []).append(gap.ravel())
            sizes[name] = max(sizes.get(name, 1e-6), float(np.abs(array).max(initial=0)))
    report = {}
    for name, parts in gaps.items():
        gap = np.concatenate(parts)
        largest = float(gap.max(initial=0.0))
        report[name] = {
            "max": largest, "mean": float(gap.mean()), "relative": largest / sizes[name],
        }  # fmt: skip
    return report


def tensor_options(signature: Signature) -> dict[str, Any]:
    """The options of the task `tensor` for a model's own signature."""
    return {
        side: [{"name": s.name, "dtype": s.dtype, "shape": list(s.shape)} for s in specs]
        for side, specs in (("inputs", signature.inputs), ("outputs", signature.outputs))
    }
