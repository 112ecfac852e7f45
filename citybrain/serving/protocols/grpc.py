"""Open Inference Protocol v2 over gRPC: `ModelInferRequest` bytes to tensors and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from citybrain.core.errors import BadTensor
from citybrain.core.tensors import (
    DTYPES,
    Array,
    Tensors,
    bytes_array,
    datatype,
    elements,
)
from citybrain.serving.protocols.json_tensors import InputTensor, Parameters
from citybrain.serving.protocols.oip import (
    from_bytes,
    refuse_extensions,
    to_bytes,
)

CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents",
    "INT32": "int_contents", "INT64": "int64_contents", "UINT8": "uint_contents",
    "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


def decode(body: bytes) -> tuple[Any, Tensors]:
    """The request and its tensors, from raw or typed contents."""
    from google.protobuf.message import DecodeError
    from tritonclient.grpc import service_pb2

    try:
        request = service_pb2.ModelInferRequest.FromString(body)
    except DecodeError as error:
        raise BadTensor("The message is not a ModelInferRequest.") from error
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise BadTensor(f"{len(request.inputs)} inputs came with {len(raw)} raw contents.")
    tensors: Tensors = {}
    for index, tensor in enumerate(request.inputs):
        if tensor.name in tensors:
            raise BadTensor(f"The input {tensor.name[:80]!r} appears twice.")
        if tensor.datatype not in DTYPES:
            raise BadTensor(f"Input {tensor.name[:80]!r} has no datatype of the protocol.")
        spec = InputTensor(tensor.name, list(tensor.shape), tensor.datatype)
        _refuse_extensions(tensor)
        if raw and tensor.contents.ByteSize():
            raise BadTensor(f"Input {tensor.name[:80]!r} has raw and typed contents.")
        if raw:
            tensors[tensor.name] = from_bytes(spec, memoryview(raw[index]))
        else:
            tensors[tensor.name] = _typed(spec, tensor.contents)
    return request, tensors


def _refuse_extensions(tensor: Any) -> None:
    if tensor.parameters:
        asked = Parameters(
            classification=0 if "classification" in tensor.parameters else None,
            shared_memory_region="" if "shared_memory_region" in tensor.parameters else None,
        )
        refuse_extensions(tensor.name, asked)


def _typed(spec: InputTensor, contents: Any) -> Array:
    if spec.datatype not in CONTENTS:
        raise BadTensor(f"Input {spec.name[:80]!r}: send {spec.datatype} as raw contents.")
    shape = tuple(spec.shape)
    values = list(getattr(contents, CONTENTS[spec.datatype]))
    if len(values) != elements(shape):
        raise BadTensor(
            f"Input {spec.name[:80]!r} needs {elements(shape)} values, not {len(values)}."
        )
    if spec.datatype == "BYTES":
        return bytes_array(values, shape)
    try:
        return np.array(values, dtype=DTYPES[spec.datatype]).reshape(shape)
    except OverflowError as error:
        raise BadTensor(f"A value of {spec.name[:80]!r} is no {spec.datatype}.") from error


def answer(body: bytes) -> Tensors:
    """The tensors of what `encode` wrote."""
    from tritonclient.grpc import service_pb2

    response = service_pb2.ModelInferResponse.FromString(body)
    return {
        tensor.name: from_bytes(
            InputTensor(tensor.name, list(tensor.shape), tensor.datatype), memoryview(raw)
        )
        for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def encode(
    request: Any, outputs: Tensors, name: str, version: str, part: dict[str, float] | None = None
) -> bytes:
    """A serialised `ModelInferResponse` with raw contents; what a part says of itself as parameters."""
    from tritonclient.grpc import service_pb2

    wanted = {output.name for output in request.outputs}
    if unknown := wanted - outputs.keys():
        raise BadTensor(f"There is no output {sorted(unknown)[0][:80]!r}.")
    for output in request.outputs:
        _refuse_extensions(output)
    response = service_pb2.ModelInferResponse(model_name=name, model_version=version, id=request.id)
    for key, value in (part or {}).items():
        if isinstance(value, float):
            response.parameters[key].double_param = value
        else:
            response.parameters[key].int64_param = value
    for key, array in outputs.items():
        if wanted and key not in wanted:
            continue
        tensor = response.outputs.add()
        tensor.name, tensor.datatype = key, datatype(array)
        tensor.shape.extend(array.shape)
        response.raw_output_contents.append(to_bytes(array))
    return bytes(response.SerializeToString())
