"""M5 and M6: tensors that lie about their size, and data outside the file."""

import json
import os
import struct

import numpy as np
import onnx
from onnx import TensorProto, helper

from hostile.case import add, file_of


def safetensors(header, data=b"\0" * 16, length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(begin=0, end=16, dtype="F32", shape=(4,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


LIES = {
    "header-2-62": safetensors({}, length=1 << 62),
    "header-beyond-the-file": safetensors({}, length=1 << 20),
    "header-minus-one": safetensors({}, length=(1 << 64) - 1),
    "header-not-json": safetensors(b"\xff\xffnot json"),
    "header-a-list": safetensors([1, 2]),
    "header-deep": safetensors(b'{"a":' * 100_000),
    "header-infinite": safetensors(b'{"a":{"dtype":"F32","shape":[Infinity],"data_offsets":[0,16]}}'),
    "overlap": safetensors({"a": entry(), "b": entry(8, 16, shape=(2,))}),
    "same-bytes-twice": safetensors({"a": entry(), "b": entry()}),
    "gap": safetensors({"a": entry(0, 4, shape=(1,)), "b": entry(12, 16, shape=(1,))}),
    "trailing-bytes": safetensors({"a": entry()}, data=b"\0" * 64),
    "beyond-the-end": safetensors({"a": entry(0, 1 << 40, shape=(1 << 38,))}),
    "negative-offset": safetensors({"a": entry(-16, 0)}),
    "float-offset": safetensors({"a": {**entry(), "data_offsets": [0.0, 16.0]}}),
    "text-offset": safetensors({"a": {**entry(), "data_offsets": ["0", "16"]}}),
    "three-offsets": safetensors({"a": {**entry(), "data_offsets": [0, 8, 16]}}),
    "shape-overflow": safetensors({"a": entry(shape=(1 << 62, 4, 1))}),
    "shape-wraps-around": safetensors({"a": entry(shape=(1 << 32, 1 << 32, 4))}),
    "shape-negative": safetensors({"a": entry(shape=(-2, -2))}),
    "shape-too-large": safetensors({"a": entry(shape=(1 << 20,))}),
    "shape-too-small": safetensors({"a": entry(shape=(1,))}),
    "shape-of-text": safetensors({"a": entry(shape=("4",))}),
    "shape-of-truth": safetensors({"a": entry(0, 4, shape=(True,))}, data=b"\0" * 4),
    "no-shape": safetensors({"a": {"dtype": "F32", "data_offsets": [0, 16]}}),
    "bad-dtype": safetensors({"a": entry(dtype="O")}),
    "no-dtype": safetensors({"a": {"shape": [4], "data_offsets": [0, 16]}}),
    "duplicated-names": safetensors(
        b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}"
    ),
    "metadata-not-text": safetensors({"__metadata__": {"a": [1]}, "a": entry()}),
    "no-tensors": safetensors({}, data=b""),
    "seven-bytes": b"\0" * 7,
    "nothing": b"",
}  # fmt: skip
for name, data in LIES.items():
    add("safetensors", name, file_of("model.safetensors", data), r"model\.safetensors",
        architecture="torchvision:resnet18")  # fmt: skip


def graph(tensor, **about):
    """A model that adds one initialiser to its input."""
    return helper.make_model(
        helper.make_graph(
            [helper.make_node("Add", ["x", "w"], ["y"])], "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 4])], [tensor],
        ),
        opset_imports=[helper.make_opsetid("", 20)], ir_version=9, **about,
    )  # fmt: skip


def tensor(dims=(4,), raw=b"\0" * 16, dtype=TensorProto.FLOAT):
    return TensorProto(name="w", dims=dims, data_type=dtype, raw_data=raw)


def onnx_of(model):
    return file_of("model.onnx", model.SerializeToString())


for name, lie in {
    "huge-dims": tensor(dims=(1 << 40,)),
    "huge-product": tensor(dims=(1 << 31, 1 << 31, 4)),
    "wrapping-product": tensor(dims=(1 << 32, 1 << 32)),
    "negative-dims": tensor(dims=(-4,)),
    "two-negatives": tensor(dims=(-2, -2)),
    "too-few-bytes": tensor(dims=(64,)),
    "too-many-bytes": tensor(raw=b"\0" * 64),
    "many-axes": tensor(dims=(1,) * 5000 + (4,)),
    "unknown-type": tensor(dtype=99),
    "no-type": tensor(dtype=0),
    "no-bytes": tensor(raw=b""),
    "strings-of-numbers": tensor(dtype=TensorProto.STRING),
}.items():
    add("initialiser", name, onnx_of(graph(lie)), r"model\.onnx")


def external(location, *, offset=None, length=None, beside=None):
    """A maker of a folder with a graph whose weights lie elsewhere."""

    def make(folder, shot):
        lie = TensorProto(name="w", dims=[4], data_type=TensorProto.FLOAT)
        lie.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", length)):
            if value is not None:
                lie.external_data.add(key=key, value=str(value))
        root = folder / "handed-in"
        root.mkdir()
        (root / "model.onnx").write_bytes(graph(lie).SerializeToString())
        (root / "algorithm.yaml").write_text(MANIFEST)
        if beside:
            beside(root, folder)
        return root

    return make


MANIFEST = """\
name: try-me
title: {zh: 试, en: Try}
task: tensor
runtime: onnx
weights: model.onnx
domain: traffic
owner: traffic
licence: Apache-2.0
options:
  inputs: [{name: x, dtype: FP32, shape: [-1, 4]}]
  outputs: [{name: "y", dtype: FP32, shape: [-1, 4]}]
"""


def hard_link(root, folder):
    (folder / "secret").write_bytes(np.zeros(4, np.float32).tobytes())
    os.link(folder / "secret", root / "w.txt")


for name, location in {
    "parent": "../secret", "up-and-down": "a/../../secret", "absolute": "/etc/passwd",
    "environ": "/proc/self/environ", "self": "model.onnx", "memory": "/proc/self/mem",
    "zero": "/dev/zero", "url": "http://127.0.0.1/x", "file-url": "file:///etc/passwd",
    "backslash": "..\\secret", "empty": "", "nul": "a\0b", "in-memory": "*/_ORT_MEM_ADDR_/*",
}.items():  # fmt: skip
    add("external", name, external(location), r"model\.onnx")
add("external", "in-memory-address", external("*/_ORT_MEM_ADDR_/*", offset=140_000_000_000_000, length=16),
    r"model\.onnx")  # fmt: skip
add("external", "symlink", external("w.txt", beside=lambda r, f: (r / "w.txt").symlink_to("/etc/passwd")),
    r"w\.txt")  # fmt: skip
add("external", "hardlink", external("w.txt", beside=hard_link), r"w\.txt")
add("external", "fifo", external("w.txt", beside=lambda r, f: os.mkfifo(r / "w.txt")), r"w\.txt")
add("external", "beside-it", external("w.txt", beside=lambda r, f: (r / "w.txt").write_bytes(b"\0" * 16)),
    r"model\.onnx")  # fmt: skip
add("external", "beyond-the-file", external(
    "w.txt", offset=1 << 62, length=1 << 62,
    beside=lambda r, f: (r / "w.txt").write_bytes(b"\0" * 16)), r"model\.onnx")  # fmt: skip


def in_attribute(folder, shot):
    lie = TensorProto(name="c", dims=[4], data_type=TensorProto.FLOAT, data_location=1)
    lie.external_data.add(key="location", value="/etc/passwd")
    model = graph(tensor())
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=lie))
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def in_training(folder, shot):
    model = graph(tensor())
    part = onnx.TrainingInfoProto()
    part.algorithm.CopyFrom(model.graph)
    part.algorithm.initializer[0].data_location = 1
    part.algorithm.initializer[0].external_data.add(key="location", value="/etc/passwd")
    model.training_info.append(part)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


add("external", "constant-of-a-node", in_attribute, r"model\.onnx")
add("external", "training-part", in_training, r"model\.onnx")
