"""M7: graphs that are small to send and enormous to run."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from hostile.case import add, file_of

OPSETS = (("", 20), ("com.microsoft", 1), ("own", 1))


def constant(name, value, dtype=np.int64):
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def model(nodes, tensors=(), functions=(), opsets=OPSETS):
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])], list(tensors),
    )  # fmt: skip
    return helper.make_model(
        graph, functions=list(functions), ir_version=10,
        opset_imports=[helper.make_opsetid(*one) for one in opsets],
    )  # fmt: skip


def onnx_of(*arguments, **named):
    return file_of("model.onnx", lambda shot: model(*arguments, **named).SerializeToString())


def graph(name, make, says=r"model\.onnx|own example|type tensor"):
    add("graph", name, make, says)


def same(name="y"):
    return helper.make_node("Identity", ["x"], [name])


def body(nodes=None, deeper=()):
    """The body of a loop that keeps its state."""
    return helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Identity", ["s"], ["t"]), *deeper],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []),
         helper.make_tensor_value_info("c", TensorProto.BOOL, []),
         helper.make_tensor_value_info("s", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("d", TensorProto.BOOL, []),
         helper.make_tensor_value_info("t", TensorProto.FLOAT, None)],
    )  # fmt: skip


def loop(count, inside=None, start="x", out="y"):
    return helper.make_node("Loop", [count, "", start], [out], body=inside or body())


def nested(turns):
    inner = body()
    for level, count in enumerate(turns[1:]):
        constant_node = helper.make_node("Constant", [], [f"n{level}"], value=constant("", count))
        inner = body(deeper=[constant_node, loop(f"n{level}", inner, start="s", out=f"u{level}")])
    return onnx_of([loop("n", inner)], [constant("n", turns[0])])


for domain, operator in (("evil", "Run"), ("", "NoSuchOperator"), ("com.microsoft", "NoSuch"),
                         ("com.microsoft", "Sampling"), ("ai.onnx.contrib", "PyOp"),
                         ("com.microsoft.nchwc", "Conv"), ("ai.onnx.training", "Gradient"),
                         ("org.pytorch.aten", "ATen"), ("com.microsoft", "EPContext"),
                         ("com.microsoft", "TorchEmbedding"), ("com.microsoft", "Tokenizer"),
                         ("pkg.onnxscript.torch_lib", "aten_add")):  # fmt: skip
    graph(f"operator-{domain}-{operator}",
          onnx_of([helper.make_node(operator, ["x"], ["y"], domain=domain)],
                  opsets=(*OPSETS, *([(domain, 1)] if domain not in ("", "com.microsoft") else []))))  # fmt: skip
graph("loop-without-bound", onnx_of([loop("")]), "loop")
graph("loop-with-a-bound-of-the-caller",
      onnx_of([helper.make_node("Size", ["x"], ["n"]), loop("n")]), "loop")  # fmt: skip
graph("loop-10-12", onnx_of([loop("n")], [constant("n", 10**12)]), "loop")
graph("loop-negative", onnx_of([loop("n")], [constant("n", -1)]), "loop")
graph("loop-count-of-floats", onnx_of([loop("n")], [constant("n", 5.5, np.float32)]))
graph("loop-count-is-nan", onnx_of([loop("n")], [constant("n", np.nan, np.float32)]))
graph("loop-count-of-two", onnx_of([loop("n")], [constant("n", [2, 10**12])]), "loop")
graph(
    "loop-count-of-text",
    onnx_of([loop("n")], [helper.make_tensor("n", TensorProto.STRING, [], [b"9"])]),
)
graph(
    "loop-count-without-bytes", onnx_of([loop("n")], [TensorProto(name="n", dims=[8], data_type=7)])
)
graph("loop-nested-2", nested([1000, 1000]), "loop")
graph("loop-nested-4", nested([100, 100, 100, 100]), "loop")
graph("loop-constant-twice", onnx_of(
    [helper.make_node("Constant", [], ["n"], value=constant("", 10**12)), loop("n"),
     helper.make_node("Constant", [], ["n"], value=constant("", 1))]))  # fmt: skip
graph("loop-by-value-int", onnx_of([helper.make_node("Constant", [], ["n"], value_int=10**12), loop("n")]),
      "loop")  # fmt: skip
graph("loop-of-many-nodes", onnx_of(
    [loop("n", body(deeper=[helper.make_node("Abs", ["s"], [f"a{i}"]) for i in range(20_000)]))],
    [constant("n", 10_000)]), "loop|runs")  # fmt: skip


def scan(out="y", over="x", deeper=(), item="e"):
    inside = helper.make_graph(
        [helper.make_node("Identity", [item], [f"{out}_"]), *deeper], "scan",
        [helper.make_tensor_value_info(item, TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info(f"{out}_", TensorProto.FLOAT, None)],
    )  # fmt: skip
    return helper.make_node("Scan", [over], [out], body=inside, num_scan_inputs=1)


graph("scan-within-scan", onnx_of([scan(deeper=[scan("z", "e", item="f")])]), "loop")
graph("scan-within-loop", onnx_of([loop("n", body(deeper=[scan("z", "s")]))], [constant("n", 10_000)]),
      "loop")  # fmt: skip
graph("scan-over-a-range", onnx_of(
    [helper.make_node("Range", ["a", "b", "one"], ["r"]), scan(over="r")],
    [constant("a", 0.0, np.float32), constant("b", 1e12, np.float32), constant("one", 1.0, np.float32)]))  # fmt: skip

HUGE = [4 << 20, 1 << 20]
for name, node, tensors in (
    ("constant-of-shape-16tb", helper.make_node("ConstantOfShape", ["n"], ["y"]), [constant("n", HUGE)]),
    ("constant-of-shape-negative", helper.make_node("ConstantOfShape", ["n"], ["y"]), [constant("n", [-5])]),
    ("expand", helper.make_node("Expand", ["x", "n"], ["y"]), [constant("n", [*HUGE, 1, 4])]),
    ("tile", helper.make_node("Tile", ["x", "n"], ["y"]), [constant("n", HUGE)]),
    ("random", helper.make_node("RandomNormal", [], ["y"], shape=HUGE), []),
    ("random-uniform", helper.make_node("RandomUniform", [], ["y"], shape=HUGE), []),
    ("pad", helper.make_node("Pad", ["x", "n"], ["y"]), [constant("n", [0, 0, 0, 1 << 42])]),
    ("one-hot", helper.make_node("OneHot", ["x", "n", "v"], ["y"]),
     [constant("n", 1 << 42), constant("v", [0.0, 1.0], np.float32)]),
    ("range", helper.make_node("Range", ["a", "n", "b"], ["y"]),
     [constant("a", 0), constant("n", 1 << 42), constant("b", 1)]),
    ("resize-sizes", helper.make_node("Resize", ["x", "", "", "n"], ["y"]), [constant("n", HUGE)]),
    ("resize-scales", helper.make_node("Resize", ["x", "", "n"], ["y"]),
     [constant("n", [1e6, 1e6], np.float32)]),
    ("window", helper.make_node("HannWindow", ["n"], ["y"]), [constant("n", 1 << 42)]),
    ("crop-pad", helper.make_node("CenterCropPad", ["x", "n"], ["y"]), [constant("n", HUGE)]),
    ("max-unpool", helper.make_node("MaxUnpool", ["x", "x", "n"], ["y"], kernel_shape=[1]),
     [constant("n", HUGE)]),
):  # fmt: skip
    graph(name, onnx_of([node], tensors))
graph("constant-of-shape-by-attribute", onnx_of(
    [helper.make_node("Constant", [], ["n"], value=constant("", HUGE)),
     helper.make_node("ConstantOfShape", ["n"], ["y"])]))  # fmt: skip
graph("constant-of-shape-by-value-ints", onnx_of(
    [helper.make_node("Constant", [], ["n"], value_ints=HUGE),
     helper.make_node("ConstantOfShape", ["n"], ["y"])]))  # fmt: skip
graph("constant-of-shape-computed", onnx_of(
    [helper.make_node("Mul", ["a", "a"], ["n"]), helper.make_node("ConstantOfShape", ["n"], ["y"])],
    [constant("a", [1 << 21])]))  # fmt: skip
graph("constant-of-shape-in-a-branch", onnx_of(
    [helper.make_node("Constant", [], ["b"], value=helper.make_tensor("", TensorProto.BOOL, [], [True])),
     helper.make_node("If", ["b"], ["y"], then_branch=helper.make_graph(
         [helper.make_node("Constant", [], ["n"], value=constant("", HUGE)),
          helper.make_node("ConstantOfShape", ["n"], ["z"])], "t", [],
         [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]),
         else_branch=helper.make_graph([same("w")], "e", [],
                                       [helper.make_tensor_value_info("w", TensorProto.FLOAT, None)]))]))  # fmt: skip


def sparse(dims):
    found = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(1, np.float32), "v"),
        numpy_helper.from_array(np.zeros(1, np.int64)),
        [1],
    )
    del found.dims[:]
    found.dims.extend(dims)
    return found


def sparse_model(shot):
    found = model([helper.make_node("Add", ["x", "v"], ["y"])])
    found.graph.sparse_initializer.append(sparse(HUGE))
    return found.SerializeToString()


graph("sparse-initialiser", file_of("model.onnx", sparse_model))
graph("sparse-constant", onnx_of([helper.make_node("Constant", [], ["y"], sparse_value=sparse(HUGE)),
                                  same("z")]))  # fmt: skip


def ifs(depth):
    inside = helper.make_graph(
        [same("o0")], "b", [], [helper.make_tensor_value_info("o0", 1, None)]
    )
    for level in range(1, depth):
        node = helper.make_node("If", ["b"], [f"o{level}"], then_branch=inside, else_branch=EMPTY)
        inside = helper.make_graph(
            [node], "b", [], [helper.make_tensor_value_info(f"o{level}", 1, None)]
        )
    return [helper.make_node("If", ["b"], ["y"], then_branch=inside, else_branch=EMPTY)]


EMPTY = helper.make_graph([same("e")], "e", [], [helper.make_tensor_value_info("e", 1, None)])
TRUTH = [helper.make_tensor("b", TensorProto.BOOL, [], [True])]
graph("if-9-deep", onnx_of(ifs(9), TRUTH))
graph("if-20-deep", onnx_of(ifs(20), TRUTH))
graph("if-50-deep", file_of("model.onnx", lambda s: deep_protobuf(50)))
graph("nodes-150000", file_of("model.onnx", lambda s: model(
    [helper.make_node("Abs", ["x"], ["a"])] * 150_000).SerializeToString()))  # fmt: skip
graph("nodes-two-million-empty", file_of(
    "model.onnx", lambda s: b"\x08\x09\x3a" + varint(4_000_000) + b"\x0a\x00" * 2_000_000))  # fmt: skip
graph("initialisers-two-million-empty", file_of(
    "model.onnx", lambda s: b"\x08\x09\x3a" + varint(4_000_000) + b"\x2a\x00" * 2_000_000))  # fmt: skip
graph("attributes-two-million-empty", file_of("model.onnx", lambda s: b"\x08\x09\x3a" + varint(
    4_000_000 + 5) + b"\x0a" + varint(4_000_000) + b"\x2a\x00" * 2_000_000))  # fmt: skip


def varint(number):
    found = b""
    while number > 127:
        found += bytes([number & 127 | 128])
        number >>= 7
    return found + bytes([number])


def function(name, nodes, **about):
    return helper.make_function(
        about.get("domain", "own"), name, ["x"], ["y"], nodes,
        [helper.make_opsetid(*one) for one in OPSETS],
    )  # fmt: skip


def own(name, given="x", out="y"):
    return helper.make_node(name, [given], [out], domain="own")


def chain(name, times):
    """A function's body that calls another one many times."""
    steps = ["x", *(f"t{i}" for i in range(times - 1)), "y"]
    return [own(name, a, b) for a, b in zip(steps, steps[1:], strict=False)]


graph("function-calls-itself", onnx_of([own("F")], functions=[function("F", [own("F")])]))
graph("functions-in-a-circle", onnx_of(
    [own("F")], functions=[function("F", [own("G")]), function("G", [own("F")])]))  # fmt: skip
graph("functions-that-multiply", onnx_of([own("F0")], functions=[
    *(function(f"F{i}", chain(f"F{i + 1}", 10)) for i in range(12)), function("F12", [same()])]))  # fmt: skip
graph("function-hides-an-operator", onnx_of(
    [own("F")], functions=[function("F", [helper.make_node("Run", ["x"], ["y"], domain="evil")])]))  # fmt: skip
graph("function-hides-a-loop", onnx_of([own("F")], functions=[function("F", [
    helper.make_node("Constant", [], ["n"], value=constant("", 10**12)), loop("n")])]), "loop")  # fmt: skip
graph("function-multiplies-a-loop", onnx_of(
    [loop("n", body(deeper=[own("F", "s", "z")]))], [constant("n", 5000)], [function("F", [
        helper.make_node("Constant", [], ["n"], value=constant("", 5000)), loop("n")])]), "loop")  # fmt: skip
graph("function-twice", onnx_of([own("F")], functions=[
    function("F", [same()]), function("F", [helper.make_node("Run", ["x"], ["y"], domain="evil")])]))  # fmt: skip
graph("function-deep", onnx_of([own("F0")], functions=[
    *(function(f"F{i}", [own(f"F{i + 1}")]) for i in range(3000)), function("F3000", [same()])]))  # fmt: skip
graph("function-named-like-an-operator", onnx_of(
    [same()], functions=[function("Identity", [helper.make_node("Identity", ["x"], ["y"])], domain="")]))  # fmt: skip

graph("strings-enormous", onnx_of([same()], [TensorProto(name="s", dims=[10**12], data_type=8)]))
graph("strings-enormous-constant", onnx_of([helper.make_node(
    "Constant", [], ["c"], value=TensorProto(dims=[10**12], data_type=8)), same()]))  # fmt: skip
graph("truncated", file_of("model.onnx", lambda s: model([same()]).SerializeToString()[:-5]))
graph("junk", file_of("model.onnx", b"\xff" * 1000))
graph("nothing", file_of("model.onnx", b""))
graph("no-graph", file_of("model.onnx", b"\x08\x09"))
graph("deep-protobuf", file_of("model.onnx", lambda s: deep_protobuf(3000)))
graph("no-output", file_of("model.onnx", lambda s: outputless().SerializeToString()))
graph("unconnected", onnx_of([helper.make_node("Identity", ["nowhere"], ["y"])]))
graph(
    "circle",
    onnx_of([helper.make_node("Abs", ["y"], ["z"]), helper.make_node("Abs", ["z"], ["y"])]),
)
graph("future-opset", onnx_of([same()], opsets=(("", 9999),)))
graph("two-opsets", onnx_of([same()], opsets=(("", 20), ("", 7))))


def outputless():
    found = model([same()])
    del found.graph.output[:]
    return found


def deep_protobuf(depth):
    inside = b""
    for _ in range(depth):  # graph → node → attribute → graph
        inside = b"\x32" + varint(len(inside)) + inside
        inside = b"\x2a" + varint(len(inside)) + inside
        inside = b"\x22\x02If" + inside
        inside = b"\x0a" + varint(len(inside)) + inside
    return b"\x08\x09\x3a" + varint(len(inside)) + inside
