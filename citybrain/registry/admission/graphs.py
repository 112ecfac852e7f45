"""An ONNX graph before anybody runs it: known operators, bounded loops, all data inside."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from citybrain.core.errors import BadPackage, TooLarge

MAX_NODES = 100_000
MAX_DEPTH = 8
MAX_TURNS = 10_000
MAX_ELEMENTS = 1 << 28
DOMAINS = {"", "ai.onnx", "ai.onnx.ml"}
MICROSOFT = {
    "Attention", "BiasGelu", "BiasSplitGelu", "DequantizeLinear", "DynamicQuantizeLSTM",
    "DynamicQuantizeMatMul", "EmbedLayerNormalization", "FastGelu", "FusedConv", "FusedGemm",
    "FusedMatMul", "Gelu", "GroupNorm", "Inverse", "LayerNormalization", "MatMulIntegerToFloat",
    "MatMulNBits", "MultiHeadAttention", "NhwcMaxPool", "QAttention", "QGemm", "QLinearAdd",
    "QLinearAveragePool", "QLinearConcat", "QLinearConv", "QLinearGlobalAveragePool",
    "QLinearLeakyRelu", "QLinearMul", "QLinearSigmoid", "QLinearSoftmax", "QuantizeLinear",
    "QuickGelu", "RotaryEmbedding", "SimplifiedLayerNormalization", "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization", "Trilu",
}  # fmt: skip
"""Operators of `com.microsoft` that optimised and quantised graphs use."""


def check_graph(path: Path) -> dict[str, Any]:
    """Facts about a graph: operators, opset, producer, parameters; BadPackage names what it may not."""
    import onnx

    raw = path.read_bytes()
    try:
        model = onnx.load_model_from_string(raw)
    except Exception as error:
        raise BadPackage(f"{path.name} is not an ONNX model: {str(error)[:150]}.") from error
    if not model.graph.node and not model.graph.output:
        raise BadPackage(f"{path.name} holds no graph.")
    functions = {(f.domain, f.name) for f in model.functions}
    walk = _Walk(path.name, len(raw), functions)
    walk.graph(model.graph, 1, 1)
    for function in model.functions:
        walk.nodes(function.node, {}, 1, 1)
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        raise BadPackage(f"{path.name}: {str(error).splitlines()[0][:200]}.") from error
    return {
        "operators": sorted(walk.operators),
        "opset": max((o.version for o in model.opset_import if o.domain in DOMAINS), default=0),
        "producer": f"{model.producer_name} {model.producer_version}".strip()[:80],
        "parameters": walk.parameters,
    }


class _Walk:
    """One pass over all graphs of a model."""

    def __init__(self, name: str, size: int, functions: set[tuple[str, str]]) -> None:
        self._name = name
        self._size = size
        self._functions = functions
        self._count = 0
        self.operators: set[str] = set()
        self.parameters = 0

    def graph(self, graph: Any, depth: int, turns: int) -> None:
        if depth > MAX_DEPTH:
            self._refuse(f"graphs within graphs, more than {MAX_DEPTH} deep")
        constants = {}
        for tensor in graph.initializer:
            self._tensor(tensor)
            constants[tensor.name] = tensor
        for sparse in graph.sparse_initializer:
            self._tensor(sparse.values)
            self._tensor(sparse.indices)
            if math.prod(sparse.dims) > MAX_ELEMENTS:
                self._refuse("a sparse tensor of an enormous shape")
        self.nodes(graph.node, constants, depth, turns)

    def nodes(self, nodes: Any, constants: dict[str, Any], depth: int, turns: int) -> None:
        for node in nodes:
            self._count += 1
            if self._count > MAX_NODES:
                raise TooLarge(f"{self._name} has more than {MAX_NODES} nodes.")
            self._operator(node)
            for attribute in node.attribute:
                for tensor in (*attribute.tensors, attribute.t):
                    self._tensor(tensor)
                    if node.op_type == "Constant" and attribute.name == "value":
                        constants[node.output[0]] = tensor
            inner = turns
            if node.op_type in ("Loop", "Scan"):
                inner = turns * self._turns(node, constants)
                if inner > MAX_TURNS:
                    self._refuse(f"a loop that may turn more than {MAX_TURNS} times")
            if node.op_type in (
                "ConstantOfShape",
                "Expand",
                "Tile",
                "RandomNormal",
                "RandomUniform",
            ):
                self._grows(node, constants)
            for attribute in node.attribute:
                for graph in (*attribute.graphs, attribute.g):
                    if graph.node or graph.output:
                        self.graph(graph, depth + 1, inner)

    def _operator(self, node: Any) -> None:
        known = node.domain in DOMAINS or (
            node.domain == "com.microsoft" and node.op_type in MICROSOFT
        )
        if not known and (node.domain, node.op_type) not in self._functions:
            self._refuse(f"the operator {node.domain[:40]}:{node.op_type[:40]}")
        self.operators.add(node.op_type)

    def _tensor(self, tensor: Any) -> None:
        if tensor.data_location or tensor.external_data:
            self._refuse(
                "weights in another file", hint="Save it as one file (onnx.save_model's default)."
            )
        count = math.prod(tensor.dims)
        if any(size < 0 for size in tensor.dims) or count > 8 * self._size + 64:
            self._refuse(f"a tensor that claims {list(tensor.dims)[:8]} values")
        self.parameters += count

    def _turns(self, node: Any, constants: dict[str, Any]) -> int:
        """How often a loop turns at most; only a number that stands in the file is believed."""
        import onnx

        if node.op_type == "Scan":
            return 1  # as often as its input is long, which the caller's input bounds
        count = constants.get(node.input[0]) if node.input and node.input[0] else None
        if count is None:
            return MAX_TURNS + 1
        values = onnx.numpy_helper.to_array(count).ravel()
        return int(values[0]) if values.size == 1 and values[0] >= 0 else MAX_TURNS + 1

    def _grows(self, node: Any, constants: dict[str, Any]) -> None:
        import onnx

        shapes = [list(a.ints) for a in node.attribute if a.name == "shape"]
        place = 0 if node.op_type == "ConstantOfShape" else 1
        if len(node.input) > place and node.input[place] in constants:
            shapes.append(onnx.numpy_helper.to_array(constants[node.input[place]]).ravel().tolist())
        for shape in shapes:
            if math.prod(abs(int(size)) for size in shape) > MAX_ELEMENTS:
                self._refuse(f"{node.op_type} to the shape {shape[:8]}")

    def _refuse(self, what: str, *, hint: str = "") -> None:
        raise BadPackage(f"{self._name} holds {what}, which is not served.", hint=hint)
