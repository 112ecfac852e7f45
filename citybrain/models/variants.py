"""Calls of a task in many sizes, made from its own example: what a converted model is compared on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from citybrain.core.errors import CityBrainError
from citybrain.core.tensors import Array, Tensors, bytes_array
from citybrain.models.task import Task

SCALES = (1.0, 0.4, 2.5, 12.0)
"""Of the example's own length, wherever the task takes any length."""
ROWS = (1, 2, 5)


def variants(task: Task) -> list[Tensors]:
    """The model's tensors for calls of one, two and five rows, shorter and longer than the example.

    A size that the task refuses (too short a series, too long a text) is left out.
    """
    found = []
    for call in _calls(task):
        try:
            task.signature().check_inputs(call)
            found.append(task.prepare(call))
        except CityBrainError:
            continue
    return found


def _calls(task: Task) -> Iterator[Tensors]:
    example = task.read(task.example())
    yield example
    optional = {spec.name for spec in task.signature().inputs if spec.optional}
    free = {
        spec.name: [axis for axis, size in enumerate(spec.shape) if axis and size < 0]
        for spec in task.signature().inputs
    }
    singles: list[Tensors] = []
    for scale in SCALES:
        one = {
            name: _scaled(array[:1], free[name], scale)
            for name, array in example.items()
            if name not in optional
        }
        for rows in ROWS:
            yield {name: _unlike(np.repeat(array, rows, axis=0)) for name, array in one.items()}
        singles.append(one)
    if all(len({one[name].shape for one in singles}) == 1 for name in singles[0]):
        yield {name: np.concatenate([one[name] for one in singles]) for name in singles[0]}


def _unlike(rows: Array) -> Array:
    """The same rows; real numbers behind the first one with noise as large as they are, at least 1."""
    if rows.dtype.kind != "f":
        return rows
    noise = np.random.default_rng(20).standard_normal(rows.shape)
    noise[0] = 0
    return (rows + noise * max(1.0, float(np.abs(rows[0]).max(initial=0)))).astype(rows.dtype)


def _scaled(row: Array, axes: list[int], scale: float) -> Array:
    if row.dtype == np.object_:
        return bytes_array([_scaled_text(value, scale) for value in row.ravel()], row.shape)
    for axis in axes:
        size = max(1, int(row.shape[axis] * scale))
        row = np.take(row, np.arange(size) % row.shape[axis], axis=axis)
    return row


def _scaled_text(value: bytes, scale: float) -> bytes:
    try:
        text = value.decode()
    except UnicodeDecodeError:  # a picture or a sound, which is as long as it is
        return value
    return (text * int(scale + 1))[: max(1, int(len(text) * scale))].encode()
