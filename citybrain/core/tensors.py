"""Arrays with names, as they travel from a door to a model and back.

Datatypes are those of the Open Inference Protocol v2
(https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from citybrain.core.errors import BadTensor

Array = NDArray[Any]
Tensors = dict[str, Array]
"""Arrays by name; the first axis of each is the batch axis. BYTES are object arrays of `bytes`."""

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
FLOATS = ("FP16", "BF16", "FP32", "FP64")
MAX_RANK = 32
MAX_ELEMENTS = 2**31


def datatype(array: Array) -> str:
    """The protocol's name of an array's dtype."""
    try:
        return _NAMES[array.dtype]
    except KeyError:
        raise BadTensor(f"Arrays of {array.dtype} have no datatype in the protocol.") from None


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output: name, datatype, shape with -1 where any size will do."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    optional: bool = False

    def check(self, array: Array) -> None:
        """Raise BadTensor, naming the tensor, unless form and values fit."""
        self.check_form(array)
        if self.dtype in FLOATS and not is_finite(array):
            raise BadTensor(f"Tensor {self.name!r} holds NaN or infinity.")

    def check_form(self, array: Array) -> None:
        """Raise BadTensor, naming the tensor, unless dtype, rank and sizes fit."""
        if array.dtype != DTYPES[self.dtype]:
            raise BadTensor(f"Tensor {self.name!r} must be {self.dtype}, not {datatype(array)}.")
        if not self._fits(array.shape):
            raise BadTensor(
                f"Tensor {self.name!r} must have the shape {list(self.shape)} "
                f"(-1: any size), not {list(array.shape)}."
            )

    def _fits(self, shape: tuple[int, ...]) -> bool:
        if len(shape) != len(self.shape):
            return False
        for want, got in zip(self.shape, shape, strict=True):  # noqa: SIM110 - `all` is slower
            if want not in (-1, got):
                return False
        return True


def is_finite(array: Array) -> bool:
    """Whether an array of floats holds neither NaN nor infinity."""
    return b"\0" not in np.isfinite(array).tobytes()  # at half the price of `all`


@dataclass(frozen=True, slots=True)
class Signature:
    """What goes in and what comes out, as `GET /v2/models/{name}` tells it."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    _by_name: dict[str, TensorSpec] = field(init=False, repr=False, compare=False, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {spec.name: spec for spec in self.inputs})

    def check_inputs(self, tensors: Tensors) -> int:
        """Check every input and return the number of rows (the common first axis)."""
        for name in tensors:
            if name not in self._by_name:
                expected = ", ".join(spec.name for spec in self.inputs)
                raise BadTensor(
                    f"There is no input {name[:80]!r}.", hint=f"Inputs are: {expected}."
                )
        rows = -1
        for spec in self.inputs:
            array = tensors.get(spec.name)
            if array is None:
                if not spec.optional:
                    raise BadTensor(f"The input {spec.name!r} is missing.")
                continue
            spec.check(array)
            if rows not in (-1, array.shape[0]):
                raise BadTensor(
                    f"Input {spec.name!r} has {array.shape[0]} rows where the others have {rows}."
                )
            rows = array.shape[0]
        if rows < 1:
            raise BadTensor("The call holds no rows.")
        return rows


def bytes_array(values: list[bytes], shape: tuple[int, ...] | None = None) -> Array:
    """A BYTES tensor of these values, one-dimensional unless a shape is given."""
    array = np.empty(len(values), dtype=np.object_)
    array[:] = values
    return array if shape is None else array.reshape(shape)


def stacked(parts: list[Array]) -> Array:
    """Rows of several arrays as one; sounds of different widths get zeros behind them."""
    sizes = np.array([part.shape[1:] for part in parts], np.int64)
    if not sizes.size or (sizes == sizes[0]).all():
        return np.concatenate(parts)
    widths = sizes.max(axis=0)
    filled = [
        np.pad(part, [(0, 0), *((0, int(most)) for most in widths - part.shape[1:])])
        for part in parts
    ]
    return np.concatenate(filled)


def elements(shape: tuple[int, ...]) -> int:
    """How many elements a shape holds; BadTensor for a negative or absurd one."""
    if not shape or (len(shape) <= MAX_RANK and min(shape) > 0):
        count = math.prod(shape)
        if count <= MAX_ELEMENTS:
            return count
    # A zero must not hide the other sizes: numpy cannot make [0, 2**62] either.
    possible = len(shape) <= MAX_RANK and all(size >= 0 for size in shape)
    if not possible or math.prod(size or 1 for size in shape) > MAX_ELEMENTS:
        raise BadTensor(f"The shape {str(list(shape)[:8])[:200]} is not possible.")
    return math.prod(shape)
