"""The algorithm that the suite asks: it gives every tensor back, whatever its datatype.

Every input may be left out, so that a case sends only what it is about. Output `y_int8` is input
`x_int8`, and so on for every datatype; `twice` is `x_fp32` and itself.
"""

import yaml
from onnx import TensorProto, helper

from conformance.bodies import DATATYPES

NAME = "conformance-echo"
NAMES = {"FP16": "FLOAT16", "BF16": "BFLOAT16", "FP32": "FLOAT", "FP64": "DOUBLE",
         "BYTES": "STRING"}  # fmt: skip


def write(folder):
    """A folder that `citybrain register` takes."""
    tensors = {name.lower(): TensorProto.DataType.Value(NAMES.get(name, name))
               for name in DATATYPES}  # fmt: skip

    def value(side, name):
        shape = ["n", f"k_{name}"]
        return helper.make_tensor_value_info(f"{side}_{name}", tensors[name], shape)

    nodes = [helper.make_node("Identity", [f"x_{name}"], [f"y_{name}"]) for name in tensors]
    nodes.append(helper.make_node("Add", ["x_fp32", "x_fp32"], ["twice"]))
    twice = helper.make_tensor_value_info("twice", TensorProto.FLOAT, ["n", "k_fp32"])
    graph = helper.make_graph(
        nodes, "echo", [value("x", name) for name in tensors],
        [*(value("y", name) for name in tensors), twice],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "echo.onnx").write_bytes(model.SerializeToString())

    def options(side, **more):
        return [{"name": f"{side}_{name.lower()}", "dtype": name, "shape": [-1, -1], **more}
                for name in DATATYPES]  # fmt: skip

    manifest = {
        "format": 1, "name": NAME, "title": {"zh": "回声", "en": "Echo"}, "task": "tensor",
        "runtime": "onnx", "weights": "echo.onnx", "domain": "government", "owner": "platform",
        "licence": "MIT",
        "options": {
            "inputs": options("x", optional=True),
            "outputs": [*options("y"), {"name": "twice", "dtype": "FP32", "shape": [-1, -1]}],
        },
    }  # fmt: skip
    (folder / "algorithm.yaml").write_text(yaml.safe_dump(manifest, allow_unicode=True))
    return folder
