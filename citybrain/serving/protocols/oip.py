"""Open Inference Protocol v2 over HTTP: JSON and the binary tensor extension.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol and
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import orjson

from citybrain.core.errors import BadJson, BadTensor
from citybrain.core.tensors import (
    DTYPES,
    Array,
    Tensors,
    bytes_array,
    datatype,
    elements,
)


class Parameters(msgspec.Struct, frozen=True):
    """Only the parameters that mean something here; others are ignored, as the protocol asks."""

    binary_data_size: int | None = None
    binary_data: bool = False
    binary_data_output: bool = False


class InputTensor(msgspec.Struct):
    """One input; `data` is absent when its bytes follow the JSON."""

    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw = msgspec.Raw(b"")
    parameters: Parameters = Parameters()


class OutputWish(msgspec.Struct):
    """One output that the caller asks for."""

    name: str
    parameters: Parameters = Parameters()


class InferRequest(msgspec.Struct):
    """The body of `POST /v2/models/{name}/infer`."""

    inputs: list[InputTensor]
    id: str = ""
    outputs: list[OutputWish] = msgspec.field(default_factory=list)
    parameters: Parameters = Parameters()


_decoder = msgspec.json.Decoder(InferRequest)
_numbers: msgspec.json.Decoder[list[float]] = msgspec.json.Decoder(list[float])
_integers: msgspec.json.Decoder[list[int]] = msgspec.json.Decoder(list[int])
_anything: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


def decode(body: bytes, header_length: int) -> tuple[InferRequest, Tensors]:
    """The request and its tensors; InvalidInput names what is wrong."""
    if header_length > len(body) or header_length < -1:
        raise BadJson("Inference-Header-Content-Length is longer than the body.")
    head = body if header_length == -1 else body[:header_length]
    request = parse(_decoder, head)
    tensors: Tensors = {}
    offset = header_length
    for tensor in request.inputs:
        if tensor.name in tensors:
            raise BadTensor(f"The input {tensor.name[:80]!r} appears twice.")
        if tensor.datatype not in DTYPES:
            known = ", ".join(DTYPES)
            raise BadTensor(
                f"Input {tensor.name[:80]!r} has the datatype {tensor.datatype[:20]!r}.",
                hint=f"Datatypes are: {known}.",
            )
        size = tensor.parameters.binary_data_size
        if size is not None:
            if header_length == -1 or size < 0 or offset + size > len(body):
                raise BadTensor(f"Input {tensor.name[:80]!r} ends behind the end of the body.")
            tensors[tensor.name] = from_bytes(tensor, memoryview(body)[offset : offset + size])
            offset += size
        elif not tensor.data:
            raise BadTensor(f"Input {tensor.name[:80]!r} has no data.")
        else:
            tensors[tensor.name] = _from_json(tensor, tensor.data)
    if header_length != -1 and offset != len(body):
        raise BadTensor(f"{len(body) - offset} bytes of the body belong to no input.")
    return request, tensors


def parse(decoder: msgspec.json.Decoder[Any], data: bytes) -> Any:
    """Decode JSON; every way of being wrong becomes a BadJson that names the place."""
    try:
        return decoder.decode(data)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise BadJson(f"The body is not what this route takes: {str(error)[:300]}.") from error
    except (RecursionError, UnicodeDecodeError, ValueError) as error:
        raise BadJson("The body is not JSON that can be read.") from error


def from_bytes(tensor: InputTensor, data: memoryview) -> Array:
    """A tensor from its raw little-endian bytes."""
    shape = tuple(tensor.shape)
    count = elements(shape)
    if tensor.datatype == "BYTES":
        return bytes_array(_split_bytes(tensor.name, data, count), shape)
    dtype = DTYPES[tensor.datatype]
    if count * dtype.itemsize != len(data):
        raise BadTensor(
            f"Input {tensor.name[:80]!r} of shape {list(shape)} needs {count * dtype.itemsize} "
            f"bytes of {tensor.datatype}, not {len(data)}."
        )
    return np.frombuffer(data, dtype).reshape(shape)


def _split_bytes(name: str, data: memoryview, count: int) -> list[bytes]:
    values, offset = [], 0
    while offset < len(data):
        if offset + 4 > len(data):
            raise BadTensor(f"Input {name[:80]!r} ends in the middle of a length.")
        length = int.from_bytes(data[offset : offset + 4], "little")
        offset += 4
        if offset + length > len(data):
            raise BadTensor(f"Input {name[:80]!r} ends in the middle of an element.")
        values.append(bytes(data[offset : offset + length]))
        offset += length
    if len(values) != count:
        raise BadTensor(f"Input {name[:80]!r} holds {len(values)} elements, its shape {count}.")
    return values


def _from_json(tensor: InputTensor, raw: msgspec.Raw) -> Array:
    shape = tuple(tensor.shape)
    count = elements(shape)
    dtype = DTYPES[tensor.datatype]
    try:
        if dtype.kind == "f":
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
    if flat.size != count:
        raise BadTensor(
            f"Input {tensor.name[:80]!r} of shape {list(shape)} needs {count} values, "
            f"not {flat.size}."
        )
    with np.errstate(over="ignore"):  # too large becomes infinity, which the signature refuses
        return flat.astype(dtype, copy=False).reshape(shape)


def _flat(raw: msgspec.Raw, decoder: msgspec.json.Decoder[Any]) -> list[Any]:
    """Values of a flat or nested list; nested ones must be regular."""
    try:
        values = decoder.decode(raw)
    except msgspec.ValidationError:
        values = _anything.decode(raw)
    if not isinstance(values, list):
        raise ValueError("not a list")  # noqa: TRY004 - bad data, as below
    while values and isinstance(values[0], list):
        width = len(values[0])
        if any(not isinstance(value, list) or len(value) != width for value in values):
            raise ValueError("ragged")
        values = [item for value in values for item in value]
    return decoder.decode(orjson.dumps(values)) if decoder is not _anything else values


def _texts(tensor: InputTensor, values: list[Any], shape: tuple[int, ...], count: int) -> Array:
    if any(not isinstance(value, str) for value in values):
        raise BadTensor(f"Input {tensor.name[:80]!r} must hold strings.")
    if len(values) != count:
        raise BadTensor(f"Input {tensor.name[:80]!r} needs {count} strings, not {len(values)}.")
    return bytes_array([value.encode() for value in values], shape)


def encode(request: InferRequest, outputs: Tensors, name: str, version: str) -> tuple[bytes, int]:
    """The answer: JSON, with the tensors that the caller wants binary behind it."""
    wishes = {wish.name: wish.parameters.binary_data for wish in request.outputs}
    for wish in wishes:
        if wish not in outputs:
            raise BadTensor(
                f"There is no output {wish[:80]!r}.",
                hint=f"Outputs are: {', '.join(outputs)}.",
            )
    default = request.parameters.binary_data_output
    described: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for key, array in outputs.items():
        if wishes and key not in wishes:
            continue
        entry: dict[str, Any] = {
            "name": key, "datatype": datatype(array), "shape": array.shape,
        }  # fmt: skip
        if wishes.get(key, default):
            raw = to_bytes(array)
            entry["parameters"] = {"binary_data_size": len(raw)}
            tail.append(raw)
        else:
            entry["data"] = _to_json(array)
        described.append(entry)
    body: dict[str, Any] = {
        "model_name": name,
        "model_version": version,
        "outputs": described,
    }
    if request.id:
        body["id"] = request.id
    head = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    return (head + b"".join(tail), len(head)) if tail else (head, -1)


def to_bytes(array: Array) -> bytes:
    """A tensor as raw little-endian bytes; BYTES elements behind their lengths."""
    if array.dtype != np.object_:
        return np.ascontiguousarray(array).tobytes()
    parts = []
    for value in array.ravel():
        parts += [len(value).to_bytes(4, "little"), value]
    return b"".join(parts)


def _to_json(array: Array) -> Any:
    if array.dtype == np.object_:
        return [value.decode(errors="replace") for value in array.ravel()]
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    return np.ascontiguousarray(array).ravel()
