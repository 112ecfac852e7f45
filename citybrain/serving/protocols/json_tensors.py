"""Tensors of the Open Inference Protocol as they stand in JSON: described, and with flat or nested data."""

from __future__ import annotations

from array import array as typed_array
from typing import Any

import msgspec
import numpy as np

from citybrain.core.errors import BadTensor
from citybrain.core.tensors import DTYPES, FLOATS, Array, bytes_array, elements


class Parameters(msgspec.Struct, frozen=True):
    """Only the parameters that mean something here; others are ignored, as the protocol asks."""

    binary_data_size: int | None = None
    binary_data: bool | None = None
    binary_data_output: bool = False
    classification: int | None = None
    shared_memory_region: str | None = None


class InputTensor(msgspec.Struct):
    """One input; `data` is absent when its bytes follow the JSON."""

    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw = msgspec.Raw(b"")
    parameters: Parameters = Parameters()


COMMON_FLOATS = {"FP32": "f", "FP64": "d"}
"""Their codes in `array.array`, which takes a list at half of numpy's price; too large becomes
infinity, which the signature refuses."""
_numbers: msgspec.json.Decoder[list[float]] = msgspec.json.Decoder(list[float])
_integers: msgspec.json.Decoder[list[int]] = msgspec.json.Decoder(list[int])
_anything: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


def from_json(tensor: InputTensor, raw: msgspec.Raw) -> Array:
    """A tensor from the JSON text of its `data`; BadTensor says what does not fit."""
    shape = tuple(tensor.shape)
    count = elements(shape)
    dtype = DTYPES[tensor.datatype]
    try:
        if (code := COMMON_FLOATS.get(tensor.datatype)) is not None:
            flat = np.frombuffer(typed_array(code, _flat(raw, _numbers)), dtype)
        elif tensor.datatype in FLOATS:
            flat = np.array(_flat(raw, _numbers), dtype=np.float64)
        elif dtype.kind in "iu":
            flat = np.array(_flat(raw, _integers), dtype=dtype)
        elif dtype.kind == "b":
            flat = np.array(_flat(raw, _anything))
            if flat.size and flat.dtype.kind != "b":
                raise BadTensor(f"Input {tensor.name[:80]!r} must hold true or false.")
        else:
            return _texts(tensor, _flat(raw, _anything), shape, count)
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
        raise BadTensor(
            f"The data of input {tensor.name[:80]!r} are not {tensor.datatype} values."
        ) from error
    return shaped(tensor, flat)


def shaped(tensor: InputTensor, flat: Array) -> Array:
    """Flat values in the tensor's datatype and shape; BadTensor if they are more or fewer."""
    shape, dtype = tuple(tensor.shape), DTYPES[tensor.datatype]
    if flat.size != (count := elements(shape)):
        raise BadTensor(
            f"Input {tensor.name[:80]!r} of shape {list(shape)} needs {count} values, "
            f"not {flat.size}."
        )
    if flat.dtype == dtype:
        return flat.reshape(shape)
    with np.errstate(over="ignore"):  # too large becomes infinity, which the signature refuses
        return flat.astype(dtype).reshape(shape)


def _flat(raw: msgspec.Raw, decoder: msgspec.json.Decoder[Any]) -> list[Any]:
    """Values of a flat or nested list; nested ones must be regular."""
    if decoder is not _anything:
        try:
            flat: list[Any] = decoder.decode(raw)
        except msgspec.ValidationError:
            pass  # it may be nested
        else:
            return flat
    values = _anything.decode(raw)
    if not isinstance(values, list):
        raise ValueError("not a list")  # noqa: TRY004 - bad data, as below
    while values and isinstance(values[0], list):
        width = len(values[0])
        if any(not isinstance(value, list) or len(value) != width for value in values):
            raise ValueError("ragged")
        values = [item for value in values for item in value]
    found: list[Any] = msgspec.convert(values, decoder.type)
    return found


def _texts(tensor: InputTensor, values: list[Any], shape: tuple[int, ...], count: int) -> Array:
    if any(not isinstance(value, str) for value in values):
        raise BadTensor(f"Input {tensor.name[:80]!r} must hold strings.")
    if len(values) != count:
        raise BadTensor(f"Input {tensor.name[:80]!r} needs {count} strings, not {len(values)}.")
    return bytes_array([value.encode() for value in values], shape)
