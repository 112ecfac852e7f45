"""`onnx`: a graph in one file, run by ONNX Runtime on a GPU where there is one, else the CPU."""

from __future__ import annotations

from citybrain.core.tensors import Signature, Tensors
from citybrain.models.onnx_session import OnnxSession
from citybrain.models.package import Package
from citybrain.models.runtime import RUNTIMES, Runtime


@RUNTIMES.add("onnx")
class OnnxGraph(Runtime):
    """Weights: one `.onnx` file with its data inside."""

    def load(self, package: Package, *, threads: int = 1) -> None:
        self._session = OnnxSession(package.weights, threads=threads)

    def infer(self, inputs: Tensors) -> Tensors:
        return self._session.run(inputs)

    def stop(self, *, on: bool) -> None:
        self._session.stop(on=on)

    def signature(self) -> Signature:
        return self._session.signature()

    def describe(self) -> dict[str, str]:
        return self._session.describe()
