"""Large JSON tensors, read by simdjson: numbers go into arrays without becoming Python objects.

A picture of 224 × 224 as JSON is three megabytes of digits. msgspec skips them once to find the end of
`data` and then makes 150,528 floats; simdjson reads them once, into a buffer. Only what is plain goes
this way (flat lists of numbers for FP32, FP64 and integers); for anything else, wrong input among it, the
caller reads the body as any other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import simdjson

from citybrain.core.tensors import DTYPES, Array

LARGE = 16_384
"""Bytes from which a body is worth it."""
BUFFERS = {"f": ("d", np.float64), "i": ("i", np.int64), "u": ("u", np.uint64)}
"""How simdjson names its buffer for a kind of datatype, and what lies in it."""


def read_large(body: bytes | memoryview) -> tuple[dict[str, Any], list[Array]] | None:
    """The body without its `data`, and the flat values of each input; None where it is not plain."""
    try:
        document: Any = simdjson.Parser().parse(body)
        # Not by `items`, which would make Python objects of what is left out.
        plain = {key: _plain(document[key]) for key in document.keys() if key != "inputs"}  # noqa: SIM118
        inputs, values = [], []
        for tensor in document["inputs"]:
            inputs.append({key: _plain(tensor[key]) for key in tensor.keys() if key != "data"})  # noqa: SIM118
            values.append(_values(tensor["data"], DTYPES[inputs[-1]["datatype"]]))
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, OverflowError):
        return None
    return plain | {"inputs": inputs}, values


def _plain(value: Any) -> Any:
    if isinstance(value, simdjson.Object):
        return value.as_dict()
    return value.as_list() if isinstance(value, simdjson.Array) else value


def _values(data: Any, dtype: np.dtype[Any]) -> Array:
    if dtype.char not in "fd" and dtype.kind not in "iu":
        raise TypeError(dtype)
    code, found = BUFFERS[dtype.kind]
    wide = np.frombuffer(data.as_buffer(of_type=code), found)
    if wide.size != len(data):  # it was nested, perhaps irregularly
        raise ValueError("nested")
    with np.errstate(over="ignore"):  # too large becomes infinity, which the signature refuses
        narrow = wide.astype(dtype)
    if dtype.kind in "iu" and (narrow != wide).any():
        raise OverflowError(dtype)
    return narrow
