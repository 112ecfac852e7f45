"""A classifier that says which of three colours a picture mostly has: for the doors that take files."""

import io

import numpy as np
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

NAME = "conformance-colours"
COLOURS = {"red": (220, 20, 20), "green": (20, 220, 20), "blue": (20, 20, 220)}
SIDE = 16


def picture(colour, kind="PNG", side=SIDE):
    """An encoded picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), COLOURS[colour]).save(file, kind)
    return file.getvalue()


def write(folder):
    """A folder that `citybrain register` takes."""
    scale = numpy_helper.from_array(np.float32(20), "scale")
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("Mul", ["means", "scale"], ["logits"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph(nodes, "colours", [images], [logits], [scale])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "colours.onnx").write_bytes(model.SerializeToString())
    manifest = {
        "format": 1, "name": NAME, "title": {"zh": "颜色", "en": "Colours"},
        "task": "image-classification", "runtime": "onnx", "weights": "colours.onnx",
        "domain": "government", "owner": "platform", "licence": "MIT", "max_batch": 2,
        "options": {"labels": list(COLOURS), "image_size": SIDE},
    }  # fmt: skip
    (folder / "algorithm.yaml").write_text(yaml.safe_dump(manifest, allow_unicode=True))
    return folder
