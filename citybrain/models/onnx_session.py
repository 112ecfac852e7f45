"""ONNX Runtime sessions, opened the one safe way, for every runtime that serves ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from citybrain.core.errors import BadPackage, BadTensor
from citybrain.core.settings import gpus_are_hidden
from citybrain.core.shelf import needs
from citybrain.core.tensors import DTYPES, Array, Signature, Tensors, TensorSpec, bytes_array

DATATYPES = {
    "tensor(bool)": "BOOL", "tensor(uint8)": "UINT8", "tensor(int8)": "INT8",
    "tensor(uint16)": "UINT16", "tensor(int16)": "INT16", "tensor(int32)": "INT32",
    "tensor(uint32)": "UINT32", "tensor(int64)": "INT64", "tensor(uint64)": "UINT64",
    "tensor(float16)": "FP16", "tensor(float)": "FP32", "tensor(double)": "FP64",
    "tensor(bfloat16)": "BF16", "tensor(string)": "BYTES",
}  # fmt: skip


class OnnxSession:
    """A session on bytes: external data and custom operators have no way in."""

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        with needs():
            import onnxruntime as ort
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        gpu = "CUDAExecutionProvider" in ort.get_available_providers() and not gpus_are_hidden()
        providers = ["CUDAExecutionProvider"] * gpu + ["CPUExecutionProvider"]
        model = path.read_bytes()
        try:
            # From bytes, never from the path: a graph that points to other files then fails.
            self._session: Any = ort.InferenceSession(model, options, providers)
        except Exception as error:
            raise BadPackage(
                f"{path.name} is not an ONNX model that loads: {str(error).splitlines()[0][:200]}",
                hint="Check it with onnx.checker.check_model; keep all weights in the one file.",
            ) from error
        self._options: Any = ort.RunOptions()
        self._takes, self._gives = self._session.get_inputs(), self._session.get_outputs()
        kinds = {DATATYPES.get(item.type, "") for item in (*self._takes, *self._gives)}
        self._foreign = not kinds.isdisjoint(("BF16", "BYTES"))
        if "BF16" in kinds:
            self._session = ort.InferenceSession(_widened(model), options, providers)
        self._fed = [item.name for item in self._session.get_inputs()]
        self._asked = [item.name for item in self._session.get_outputs()]

    def run(self, inputs: Tensors) -> Tensors:
        """One call. A model of one input takes it whatever the caller's name for it."""
        if len(self._takes) == 1 and len(inputs) == 1:
            values = [next(iter(inputs.values()))]
        else:
            values = [inputs[item.name] for item in self._takes]
        if self._foreign:
            values = [_to_runtime(i.name, v) for i, v in zip(self._takes, values, strict=True)]
        feed = dict(zip(self._fed, values, strict=True))
        found = self._session.run(self._asked, feed, self._options)
        if self._foreign:
            found = [_from_runtime(i.type, v) for i, v in zip(self._gives, found, strict=True)]
        return {item.name: array for item, array in zip(self._gives, found, strict=True)}

    def stop(self, *, on: bool) -> None:
        """End the call that runs, at its next operator; calls after that end too, until it is off."""
        self._options.terminate = on

    def signature(self) -> Signature:
        """The graph's inputs and outputs; symbolic sizes are -1."""
        return Signature(
            tuple(_spec(item) for item in self._takes),
            tuple(_spec(item) for item in self._gives),
        )

    def describe(self) -> dict[str, str]:
        """Library version, device and the metadata that the exporter wrote."""
        import onnxruntime as ort

        meta = self._session.get_modelmeta()
        return {
            "library": f"onnxruntime {ort.__version__}",
            "device": self._session.get_providers()[0].removesuffix("ExecutionProvider"),
            "producer": meta.producer_name,
        }


def _widened(model: bytes) -> bytes:
    """The graph with FP32 where it takes or gives BF16, which ONNX Runtime hands to no array."""
    import onnx
    from onnx import TensorProto, helper

    proto = onnx.load_model_from_string(model)
    graph = proto.graph
    first: list[Any] = []
    last: list[Any] = []
    for items, casts in ((graph.input, first), (graph.output, last)):
        for item in items:
            if item.type.tensor_type.elem_type == TensorProto.BFLOAT16:
                narrow, item.name = item.name, f"{item.name} as FP32"
                item.type.tensor_type.elem_type = TensorProto.FLOAT
                if casts is first:
                    cast = helper.make_node("Cast", [item.name], [narrow], to=TensorProto.BFLOAT16)
                else:
                    cast = helper.make_node("Cast", [narrow], [item.name], to=TensorProto.FLOAT)
                casts.append(cast)
    nodes = [*first, *graph.node, *last]
    del graph.node[:]
    graph.node.extend(nodes)
    return bytes(proto.SerializeToString())


def _to_runtime(name: str, array: Array) -> Array:
    """BF16 as FP32, which holds it exactly, and BYTES as the Unicode strings of ONNX."""
    if array.dtype == DTYPES["BF16"]:
        return array.astype(np.float32)
    if array.dtype != np.object_:
        return array
    texts = np.empty(array.size, dtype=np.object_)
    try:
        texts[:] = [value.decode() for value in array.ravel()]
    except UnicodeDecodeError as error:
        raise BadTensor(f"Tensor {name!r} must hold UTF-8 text.") from error
    return texts.reshape(array.shape)


def _from_runtime(kind: str, array: Array) -> Array:
    if kind == "tensor(bfloat16)":
        return array.astype(DTYPES["BF16"])
    if kind == "tensor(string)":
        return bytes_array([text.encode() for text in array.ravel()], array.shape)
    return array


def _spec(item: Any) -> TensorSpec:
    if item.type not in DATATYPES:
        raise BadPackage(f"Tensor {item.name!r} has the type {item.type}, which is not served.")
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in item.shape)
    return TensorSpec(item.name, DATATYPES[item.type], (-1, *shape[1:]) if shape else (-1,))
