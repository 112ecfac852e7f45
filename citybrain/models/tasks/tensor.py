"""`tensor`: the model's own tensors, passed through unchanged."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field

from citybrain.core.errors import BadTensor
from citybrain.core.tensors import DTYPES, Signature, Tensors, TensorSpec, bytes_array
from citybrain.models.package import Strict
from citybrain.models.task import TASKS, Item, Task


class Tensor(Strict):
    """One tensor of the model; the batch axis comes first and is -1."""

    name: str = Field(min_length=1, max_length=200)
    dtype: Literal[
        "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
        "FP16", "FP32", "FP64", "BYTES",
    ]  # fmt: skip
    shape: tuple[int, ...] = Field(min_length=1, max_length=8)

    def spec(self) -> TensorSpec:
        return TensorSpec(self.name, self.dtype, self.shape)


class TensorOptions(Strict):
    """The model's inputs and outputs, in order."""

    inputs: list[Tensor] = Field(min_length=1)
    outputs: list[Tensor] = Field(min_length=1)


class TensorItem(Item):
    """One row: nested lists by tensor name, without the batch axis."""

    tensors: dict[str, Any]


@TASKS.add("tensor")
class TensorTask(Task):
    """For models that no other task describes; what plain MLflow users register lands here."""

    Options = TensorOptions
    Input = TensorItem
    Output = TensorItem

    def signature(self) -> Signature:
        return Signature(
            tuple(tensor.spec() for tensor in self.options.inputs),
            tuple(tensor.spec() for tensor in self.options.outputs),
        )

    def example(self) -> list[TensorItem]:
        row: dict[str, Any] = {}
        for tensor in self.options.inputs:
            size = tuple(1 if n < 0 else n for n in tensor.shape[1:])
            if tensor.dtype == "BYTES":
                row[tensor.name] = np.full(size, "text", dtype=object).tolist()
            else:
                row[tensor.name] = np.zeros(size, DTYPES[tensor.dtype]).tolist()
        return [TensorItem(row)]

    def read(self, items: list[TensorItem]) -> Tensors:
        names = set(items[0].tensors) if items else set()
        if any(set(item.tensors) != names for item in items):
            raise BadTensor("All items of one call must name the same tensors.")
        known = {tensor.name: tensor.dtype for tensor in self.options.inputs}
        tensors: Tensors = {}
        for name in names:
            if name not in known:
                raise BadTensor(f"There is no input {name[:80]!r}.")
            rows = [item.tensors[name] for item in items]
            try:
                tensors[name] = _array(rows, known[name])
            except (ValueError, TypeError, OverflowError) as error:
                raise BadTensor(f"Tensor {name!r} is not a regular {known[name]} array.") from error
        return tensors

    def write(self, outputs: Tensors) -> list[TensorItem]:
        rows = len(next(iter(outputs.values())))
        return [
            TensorItem({name: _plain(array[row]) for name, array in outputs.items()})
            for row in range(rows)
        ]


def _array(rows: list[Any], dtype: str) -> Any:
    if dtype != "BYTES":
        array = np.array(rows)
        if array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and dtype[:2] != "FP"):
            raise ValueError(array.dtype)
        return array.astype(DTYPES[dtype])
    texts = np.array(rows, dtype=object)
    flat = [str(text).encode() for text in texts.ravel()]
    return bytes_array(flat, texts.shape)


def _plain(value: Any) -> Any:
    plain = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    return plain.decode(errors="replace") if isinstance(plain, bytes) else plain
