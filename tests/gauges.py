"""Classifiers that behave well, answer NaN, take their time or end their process, made as ONNX graphs.

One, `turns`, takes its time only where its input says so: as many turns of a loop as its largest number.
"""

import numpy as np
import yaml
from onnx import TensorProto, helper, numpy_helper

STEPS = 60
"""Products of large matrices that make a model slow, some tens of milliseconds."""
DEADLY = -(2.0**31)
"""Divided by -1 as an integer of 32 bits it has no answer, and the processor ends the process (x86)."""


def gauge(folder, kind, name="gauge", side=900, **manifest):
    """A package: a classifier of two numbers; `good`, `slow`, `turns`, `nan` or `crash`.

    `nan` answers so where the first number is 0, `crash` ends its replica where it is DEADLY.
    """
    rng = np.random.default_rng(3)
    weights = {"w": rng.standard_normal((2, 3)).astype(np.float32)}
    nodes = [helper.make_node("MatMul", ["features", "w"], ["a"])]
    if kind == "nan":
        weights |= {"first": np.array([0], np.int64)}
        nodes += [helper.make_node("Gather", ["features", "first"], ["x"], axis=1),
                  helper.make_node("Div", ["x", "x"], ["one"]),
                  helper.make_node("Mul", ["a", "one"], ["b"])]  # fmt: skip
    elif kind == "crash":
        weights |= {"first": np.array([0], np.int64), "minus": np.array([[-1]], np.int32)}
        nodes += [helper.make_node("Gather", ["features", "first"], ["x"], axis=1),
                  helper.make_node("Cast", ["x"], ["n"], to=TensorProto.INT32),
                  helper.make_node("Div", ["n", "minus"], ["m"]),
                  helper.make_node("Mul", ["m", "minus"], ["same"]),
                  helper.make_node("Sub", ["n", "same"], ["nothing"]),
                  helper.make_node("Cast", ["nothing"], ["zero"], to=TensorProto.FLOAT),
                  helper.make_node("Add", ["a", "zero"], ["b"])]  # fmt: skip
    elif kind == "slow":
        weights |= {"in": np.zeros((3, side), np.float32), "out": np.zeros((side, 3), np.float32),
                    "big": rng.standard_normal((side, side)).astype(np.float32)}  # fmt: skip
        nodes.append(helper.make_node("MatMul", ["a", "in"], ["c0"]))
        nodes += [helper.make_node("MatMul", [f"c{n}", "big"], [f"c{n + 1}"]) for n in range(STEPS)]
        nodes += [helper.make_node("MatMul", [f"c{STEPS}", "out"], ["zeros"]),
                  helper.make_node("Add", ["a", "zeros"], ["b"])]  # fmt: skip
    elif kind == "turns":
        weights |= {"most": np.array(10_000, np.int64), "on": np.array(True), "none": np.float32(0),
                    "big": rng.standard_normal((side, side)).astype(np.float32)}  # fmt: skip
        nodes += [helper.make_node("ReduceMax", ["features"], ["largest"], keepdims=0),
                  helper.make_node("Cast", ["largest"], ["turns"], to=TensorProto.INT64),
                  helper.make_node("Loop", ["most", "on", "big"], ["end"], body=_turn(side)),
                  helper.make_node("ReduceMin", ["end"], ["least"], keepdims=0),
                  helper.make_node("Min", ["least", "none"], ["below"]),
                  helper.make_node("Max", ["below", "none"], ["nothing"]),
                  helper.make_node("Add", ["a", "nothing"], ["b"])]  # fmt: skip
    else:
        nodes.append(helper.make_node("Identity", ["a"], ["b"]))
    nodes.append(helper.make_node("Softmax", ["b"], ["probabilities"], axis=1))
    graph = helper.make_graph(
        nodes, kind, [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    folder.mkdir()
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    manifest = {
        "name": name, "title": {"zh": "水位", "en": "Gauge"}, "runtime": "onnx",
        "task": "tabular-classification", "weights": "model.onnx", "domain": "environment",
        "owner": "platform", "licence": "MIT", "description": kind,
        "options": {"features": ["x", "y"], "labels": ["low", "high", "flood"],
                    "example": {"x": 1.0, "y": 2.0}},
        **manifest,
    }  # fmt: skip
    (folder / "algorithm.yaml").write_text(yaml.safe_dump(manifest, allow_unicode=True))
    return folder


def _turn(side):
    """The body of the loop: one product, and on while there are turns left."""
    nodes = [
        helper.make_node("Less", ["turn", "turns"], ["more"]),
        helper.make_node("MatMul", ["product", "big"], ["wild"]),
        helper.make_node("Tanh", ["wild"], ["next"]),
    ]
    square = [side, side]
    return helper.make_graph(
        nodes, "turn",
        [helper.make_tensor_value_info("turn", TensorProto.INT64, []),
         helper.make_tensor_value_info("before", TensorProto.BOOL, []),
         helper.make_tensor_value_info("product", TensorProto.FLOAT, square)],
        [helper.make_tensor_value_info("more", TensorProto.BOOL, []),
         helper.make_tensor_value_info("next", TensorProto.FLOAT, square)],
    )  # fmt: skip
