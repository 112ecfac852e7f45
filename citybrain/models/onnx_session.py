"""ONNX Runtime sessions, opened the one safe way, for every runtime that serves ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from citybrain.core.errors import BadPackage
from citybrain.core.shelf import needs
from citybrain.core.tensors import Signature, Tensors, TensorSpec

DATATYPES = {
    "tensor(bool)": "BOOL", "tensor(uint8)": "UINT8", "tensor(int8)": "INT8",
    "tensor(uint16)": "UINT16", "tensor(int16)": "INT16", "tensor(int32)": "INT32",
    "tensor(uint32)": "UINT32", "tensor(int64)": "INT64", "tensor(uint64)": "UINT64",
    "tensor(float16)": "FP16", "tensor(float)": "FP32", "tensor(double)": "FP64",
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
        gpu = "CUDAExecutionProvider" in ort.get_available_providers()
        providers = ["CUDAExecutionProvider"] * gpu + ["CPUExecutionProvider"]
        try:
            # From bytes, never from the path: a graph that points to other files then fails.
            self._session: Any = ort.InferenceSession(path.read_bytes(), options, providers)
        except Exception as error:
            raise BadPackage(
                f"{path.name} is not an ONNX model that loads: {str(error).splitlines()[0][:200]}",
                hint="Check it with onnx.checker.check_model; keep all weights in the one file.",
            ) from error
        self._inputs = [item.name for item in self._session.get_inputs()]
        self._outputs = [item.name for item in self._session.get_outputs()]

    def run(self, inputs: Tensors) -> Tensors:
        """One call. A model of one input takes it whatever the caller's name for it."""
        if len(self._inputs) == 1 and len(inputs) == 1:
            feed = {self._inputs[0]: next(iter(inputs.values()))}
        else:
            feed = {name: inputs[name] for name in self._inputs}
        return dict(zip(self._outputs, self._session.run(self._outputs, feed), strict=True))

    def signature(self) -> Signature:
        """The graph's inputs and outputs; symbolic sizes are -1."""
        return Signature(
            tuple(_spec(item) for item in self._session.get_inputs()),
            tuple(_spec(item) for item in self._session.get_outputs()),
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


def _spec(item: Any) -> TensorSpec:
    if item.type not in DATATYPES:
        raise BadPackage(f"Tensor {item.name!r} has the type {item.type}, which is not served.")
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in item.shape)
    return TensorSpec(item.name, DATATYPES[item.type], (-1, *shape[1:]) if shape else (-1,))
