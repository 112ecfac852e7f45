"""An ONNX graph before anybody runs it: known operators, bounded loops, all data inside."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from citybrain.core.errors import BadPackage, TooLarge
from citybrain.registry.admission.onnx_parts import MAX_NODES, check_parts

MAX_DEPTH = 8
MAX_CALLS = 32
MAX_AXES = 32
MAX_TURNS = 10_000
MAX_RUNS = 10_000_000
"""Nodes times the turns of the loops around them."""
MAX_ELEMENTS = 1 << 26
SCAN_TURNS = MAX_TURNS // 2 + 1
"""What a Scan counts, whose input may be long: it stands alone, not in another loop or around one."""
LOOPS = ("Loop", "Scan", "SequenceMap")
GROWS = {
    "ConstantOfShape": (0,), "Expand": (1,), "Tile": (1,), "Resize": (2, 3), "Upsample": (1,),
    "Pad": (1,), "OneHot": (1,), "CenterCropPad": (1,), "AffineGrid": (1,), "MaxUnpool": (2,),
    "HannWindow": (0,), "HammingWindow": (0,), "BlackmanWindow": (0,), "Range": (0, 1, 2),
    "RandomNormal": (), "RandomUniform": (), "Col2Im": (1,), "MelWeightMatrix": (0, 1),
}  # fmt: skip
"""Operators that make more than they are given, and which inputs say how much."""
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
    check_parts(path.name, raw)
    try:
        model = onnx.load_model_from_string(raw)
    except Exception as error:
        raise BadPackage(f"{path.name} is not an ONNX model: {str(error)[:150]}.") from error
    if not model.graph.output:
        raise BadPackage(f"{path.name} holds no graph with outputs.")
    functions = {(f.domain, f.name): f for f in model.functions}
    if len(functions) < len(model.functions) or any(f.domain in DOMAINS for f in model.functions):
        raise BadPackage(f"{path.name} defines a function twice, or in place of an operator.")
    # skl2onnx names the same version twice, which says nothing wrong.
    imports = {(o.domain, o.version) for o in model.opset_import}
    if len({domain for domain, _ in imports}) < len(imports):
        raise BadPackage(f"{path.name} imports two versions of the same operators.")
    if model.training_info:
        raise BadPackage(f"{path.name} holds training steps, which are not served.")
    walk = _Walk(path.name, len(raw), functions)
    walk.graph(model.graph, 1, 1)
    walk.unused()
    try:
        onnx.checker.check_model(raw)  # the bytes, or it would write all of them once more
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

    def __init__(self, name: str, size: int, functions: dict[tuple[str, str], Any]) -> None:
        self._name = name
        self._size = size
        self._functions = functions
        self._seen: set[tuple[str, str]] = set()
        self._calls: list[tuple[str, str]] = []
        self._count = 0
        self._runs = 0
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
            self._sparse(sparse)
        self.nodes(graph.node, constants, depth, turns)

    def nodes(self, nodes: Any, constants: dict[str, Any], depth: int, turns: int) -> None:
        for node in nodes:
            self._count += 1
            self._runs += turns
            if self._count > MAX_NODES:
                raise TooLarge(f"{self._name} has more than {MAX_NODES} nodes.")
            if self._runs > MAX_RUNS:
                self._refuse(f"loops with more than {MAX_RUNS} runs of their nodes")
            self._operator(node)
            for attribute in node.attribute:
                for tensor in (*attribute.tensors, attribute.t):
                    self._tensor(tensor)
                    if node.op_type == "Constant" and attribute.name == "value":
                        constants[node.output[0]] = tensor
                if node.op_type == "Constant" and attribute.name in ("value_int", "value_ints"):
                    constants[node.output[0]] = _integers(attribute)
                for sparse in (*attribute.sparse_tensors, attribute.sparse_tensor):
                    self._sparse(sparse)
            inner = turns
            if node.op_type in LOOPS:
                inner = turns * self._turns(node, constants)
                if inner > MAX_TURNS:
                    self._refuse(f"a loop that may turn more than {MAX_TURNS} times")
            if node.op_type in GROWS:
                self._grows(node, constants)
            for attribute in node.attribute:
                for graph in (*attribute.graphs, attribute.g):
                    if graph.node or graph.output:
                        self.graph(graph, depth + 1, inner)
            if (node.domain, node.op_type) in self._functions:
                self._call((node.domain, node.op_type), depth, turns)

    def unused(self) -> None:
        """Functions that nothing called so far."""
        for key in self._functions.keys() - self._seen:
            self._call(key, 1, 1)

    def _call(self, key: tuple[str, str], depth: int, turns: int) -> None:
        # As often as it is called: that is how often the runtime writes it out.
        if key in self._calls:
            self._refuse(f"the function {key[1][:40]}, which calls itself")
        if len(self._calls) >= MAX_CALLS:
            self._refuse(f"functions that call functions, more than {MAX_CALLS} deep")
        self._seen.add(key)
        self._calls.append(key)
        self.nodes(self._functions[key].node, {}, depth, turns)
        self._calls.pop()

    def _sparse(self, sparse: Any) -> None:
        self._tensor(sparse.values)
        self._tensor(sparse.indices)
        if any(size < 0 for size in sparse.dims) or math.prod(sparse.dims) > MAX_ELEMENTS:
            self._refuse("a sparse tensor of an enormous shape")

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
        if len(tensor.dims) > MAX_AXES:
            self._refuse(f"a tensor of {len(tensor.dims)} axes")
        count = math.prod(tensor.dims)
        if any(size < 0 for size in tensor.dims) or count > 8 * self._size + 64:
            self._refuse(f"a tensor that claims {list(tensor.dims)[:8]} values")
        self.parameters += count

    def _turns(self, node: Any, constants: dict[str, Any]) -> int:
        """How often a loop turns at most; only a number that stands in the file is believed."""
        if node.op_type != "Loop":
            return SCAN_TURNS
        count = constants.get(node.input[0]) if node.input and node.input[0] else None
        if count is None:
            return MAX_TURNS + 1
        values = self._values(count)
        return int(values[0]) if len(values) == 1 and values[0] >= 0 else MAX_TURNS + 1

    def _grows(self, node: Any, constants: dict[str, Any]) -> None:
        shapes = [list(a.ints) for a in node.attribute if a.name in ("shape", "pads")]
        known = [
            self._values(constants[node.input[place]])
            for place in GROWS[node.op_type]
            if len(node.input) > place and node.input[place] in constants
        ]
        if node.op_type == "Range" and len(known) == 3 and all(len(one) == 1 for one in known):
            start, stop, step = (float(one[0]) for one in known)
            known = [[abs((stop - start) / step)]] if step else []
        for shape in [*shapes, *known]:
            if node.op_type == "ConstantOfShape" and any(size < 0 for size in shape):
                self._refuse(f"{node.op_type} to the shape {shape[:8]}")
            # Not below 1: a zero beside enormous numbers makes nothing small. NaN is refused too.
            if not math.prod(max(1.0, abs(float(size))) for size in shape) <= MAX_ELEMENTS:
                self._refuse(f"{node.op_type} to the shape {shape[:8]}")

    def _values(self, tensor: Any) -> list[Any]:
        """The numbers of a small constant."""
        import onnx

        try:
            if isinstance(tensor, list):
                return tensor
            found = onnx.numpy_helper.to_array(tensor).ravel()[:1000].tolist()
            return [float(number) for number in found]
        except Exception as error:
            raise BadPackage(f"{self._name} holds a constant that cannot be read.") from error

    def _refuse(self, what: str, *, hint: str = "") -> None:
        raise BadPackage(f"{self._name} holds {what}, which is not served.", hint=hint)


def _integers(attribute: Any) -> list[int]:
    return list(attribute.ints) if attribute.name == "value_ints" else [attribute.i]
