"""`tensor`: the model's own tensors, passed through unchanged."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from citybrain.core.errors import BadTensor
from citybrain.core.tensors import DTYPES, FLOATS, Signature, Tensors, bytes_array
from citybrain.models.package import Strict
from citybrain.models.task import TASKS, Item, Task
from citybrain.models.tensor_schema import Tensor


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
    finite = False  # a mask of minus infinity is an answer here

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

    def prepare(self, inputs: Tensors) -> Tensors:
        left_out = [tensor for tensor in self.options.inputs if tensor.name not in inputs]
        if not left_out:
            return inputs
        rows = len(next(iter(inputs.values())))
        return inputs | {tensor.name: tensor.blank(rows) for tensor in left_out}

    def write(self, outputs: Tensors) -> list[TensorItem]:
        rows = len(next(iter(outputs.values())))
        return [
            TensorItem({name: _plain(array[row]) for name, array in outputs.items()})
            for row in range(rows)
        ]


def _array(rows: list[Any], dtype: str) -> Any:
    if dtype != "BYTES":
        array = np.array(rows)
        if (
            dtype == "UINT64" and array.dtype.kind == "f"
        ):  # numpy's choice where some are beyond INT64
            whole = np.array(rows, dtype=object)
            if all(type(value) is int for value in whole.ravel()):
                return whole.astype(np.uint64)
        if array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and dtype not in FLOATS):
            raise ValueError(array.dtype)
        with np.errstate(over="ignore"):  # too large becomes infinity, which the signature refuses
            found = array.astype(DTYPES[dtype])
        if dtype not in FLOATS and (found != array).any():
            raise ValueError("a value is beyond the datatype")
        return found
    texts = np.array(rows, dtype=object)
    flat = [str(text).encode() for text in texts.ravel()]
    return bytes_array(flat, texts.shape)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, np.ndarray) and value.dtype == np.object_:
        return [_plain(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
