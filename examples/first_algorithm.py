"""A first algorithm, without a server: a folder that the platform takes, and its answer.

An algorithm is a folder with an `algorithm.yaml` and weights. This one warns of standing water in
an underpass: three numbers in (rain of the last hour in mm, water level in cm, pumps running), the
probability of each class out. The weights are a logistic regression written as ONNX by hand, so
that nothing has to be trained. `citybrain register` takes the folder that this writes as it is.

    python examples/first_algorithm.py
"""

import tempfile
from pathlib import Path

import numpy as np
import yaml
from onnx import TensorProto, helper, numpy_helper

from citybrain.models.predictor import Predictor
from citybrain.models.tasks.tabular_classification import TableRow

MANIFEST = {
    "format": 1,
    "name": "underpass-water",
    "title": {"zh": "下穿道路积水预警", "en": "Standing water in underpasses"},
    "task": "tabular-classification",
    "runtime": "onnx",
    "weights": "model.onnx",
    "domain": "city-management",
    "owner": "city-management",
    "licence": "Apache-2.0",
    "options": {
        "features": ["rain_mm", "level_cm", "pumps"],
        "labels": ["passable", "closed"],
        "example": {"rain_mm": 12.0, "level_cm": 8.0, "pumps": 2.0},
    },
}


def write_package(folder: Path) -> None:
    """Write `algorithm.yaml` and `model.onnx`."""
    weights = np.array([[-0.06, 0.06], [-0.25, 0.25], [0.9, -0.9]], np.float32)
    bias = np.array([3.0, -3.0], np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["features", "weights", "bias"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
        ],
        "underpass",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    text = yaml.safe_dump(MANIFEST, allow_unicode=True, sort_keys=False)
    (folder / "algorithm.yaml").write_text(text, encoding="utf-8")


def main() -> None:
    """Write the folder, open it, ask it twice."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        write_package(folder)
        predictor = Predictor.open(folder)
        dry, flooded = predictor.predict(
            [
                TableRow({"rain_mm": 2.0, "level_cm": 3.0, "pumps": 2.0}),
                TableRow({"rain_mm": 60.0, "level_cm": 35.0, "pumps": 0.0}),
            ]
        )
    print(f"light rain: {dry.label} ({dry.probabilities[dry.label]:.2f})")
    print(f"cloudburst: {flooded.label} ({flooded.probabilities[flooded.label]:.2f})")
    assert (dry.label, flooded.label) == ("passable", "closed")


if __name__ == "__main__":
    main()
