"""Open Inference Protocol v2 over HTTP: JSON and the binary tensor extension.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol and
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import contextlib
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
from citybrain.serving.protocols.json_tensors import InputTensor, Parameters, from_json, shaped
from citybrain.serving.protocols.large_json import LARGE, read_large


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


class InferResponse(msgspec.Struct):
    """The part of an answer that holds tensors."""

    outputs: list[InputTensor]


HALVES = (DTYPES["FP16"], DTYPES["BF16"])
_decoder = msgspec.json.Decoder(InferRequest)
_answer_decoder = msgspec.json.Decoder(InferResponse)


def decode(body: bytes | memoryview, header_length: int) -> tuple[InferRequest, Tensors]:
    """The request and its tensors; InvalidInput names what is wrong."""
    if header_length > len(body) or header_length < -1:
        raise BadJson("Inference-Header-Content-Length is longer than the body.")
    head = body if header_length == -1 else body[:header_length]
    if header_length == -1 and len(body) >= LARGE and (large := read_large(body)) is not None:
        plain, values = large
        with contextlib.suppress(msgspec.ValidationError):  # said better below
            request = msgspec.convert(plain, InferRequest)
            return request, _tensors(request.inputs, body, header_length, values)
    request = parse(_decoder, head)
    return request, _tensors(request.inputs, body, header_length)


def answer(body: bytes, header_length: int) -> Tensors:
    """The tensors of what `encode` wrote."""
    head = body if header_length == -1 else body[:header_length]
    return _tensors(parse(_answer_decoder, head).outputs, body, header_length)


def _tensors(
    described: list[InputTensor],
    body: bytes | memoryview,
    header_length: int,
    values: list[Array] | None = None,
) -> Tensors:
    """`values`: what the `data` of each input hold, where they were read already."""
    tensors: Tensors = {}
    offset = header_length
    for number, tensor in enumerate(described):
        if tensor.name in tensors:
            raise BadTensor(f"The input {tensor.name[:80]!r} appears twice.")
        if tensor.datatype not in DTYPES:
            known = ", ".join(DTYPES)
            raise BadTensor(
                f"Input {tensor.name[:80]!r} has the datatype {tensor.datatype[:20]!r}.",
                hint=f"Datatypes are: {known}.",
            )
        refuse_extensions(tensor.name, tensor.parameters)
        size = tensor.parameters.binary_data_size
        if size is not None and (tensor.data or values is not None):
            raise BadTensor(f"Input {tensor.name[:80]!r} has `data` and `binary_data_size`.")
        if size is not None:
            if header_length == -1 or size < 0 or offset + size > len(body):
                raise BadTensor(f"Input {tensor.name[:80]!r} ends behind the end of the body.")
            tensors[tensor.name] = from_bytes(tensor, memoryview(body)[offset : offset + size])
            offset += size
        elif values is not None:
            tensors[tensor.name] = shaped(tensor, values[number])
        elif not tensor.data:
            raise BadTensor(f"Input {tensor.name[:80]!r} has no data.")
        else:
            tensors[tensor.name] = from_json(tensor, tensor.data)
    if header_length != -1 and offset != len(body):
        raise BadTensor(f"{len(body) - offset} bytes of the body belong to no input.")
    return tensors


def refuse_extensions(name: str, asked: Parameters) -> None:
    """BadTensor for what changes the meaning of a call and is not served, rather than ignored."""
    for extension in ("classification", "shared_memory_region"):
        if getattr(asked, extension) is not None:
            raise BadTensor(
                f"Tensor {name[:80]!r} asks for the extension {extension!r}, which is not served.",
                hint="GET /v2 lists the extensions.",
            )


def parse(decoder: msgspec.json.Decoder[Any], data: bytes | memoryview) -> Any:
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
    if tensor.datatype == "BOOL":  # any byte but zero is true; numpy would keep the byte
        return np.frombuffer(data, np.uint8).astype(np.bool_).reshape(shape)
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


def encode(request: InferRequest, outputs: Tensors, name: str, version: str) -> tuple[bytes, int]:
    """The answer: JSON, with the tensors that the caller wants binary behind it."""
    wishes = {wish.name: wish.parameters for wish in request.outputs}
    for wish, asked in wishes.items():
        if wish not in outputs:
            raise BadTensor(
                f"There is no output {wish[:80]!r}.",
                hint=f"Outputs are: {', '.join(outputs)}.",
            )
        refuse_extensions(wish, asked)
    default = request.parameters.binary_data_output
    described: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for key, array in outputs.items():
        if wishes and key not in wishes:
            continue
        entry: dict[str, Any] = {
            "name": key, "datatype": datatype(array), "shape": array.shape,
        }  # fmt: skip
        asked_binary = wishes[key].binary_data if wishes else None
        if default if asked_binary is None else asked_binary:
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
    if array.dtype in HALVES:  # JSON's writer knows no half precision; FP32 holds both exactly
        array = array.astype(np.float32)
    return np.ascontiguousarray(array).ravel()
