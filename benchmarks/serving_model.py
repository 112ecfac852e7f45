"""The model of the serving benchmark, a package of it, and the one request that is sent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import orjson
from onnx import TensorProto, helper, numpy_helper

SEED = 20260101
INPUTS, HIDDEN, OUTPUTS = 16, 64, 4
MANIFEST = f"""\
format: 1
name: bench-mlp
title: {{zh: 基准, en: Benchmark}}
description: A small network with random weights, made to measure the server around it.
task: tensor
runtime: onnx
weights: model.onnx
domain: city-management
owner: platform
licence: Apache-2.0
max_batch: 64
options:
  inputs: [{{name: x, dtype: FP32, shape: [-1, {INPUTS}]}}]
  outputs: [{{name: y, dtype: FP32, shape: [-1, {OUTPUTS}]}}]
"""


def write_package(folder: Path) -> Path:
    """The package folder; returns the path of its ONNX file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "algorithm.yaml").write_text(MANIFEST, encoding="utf-8")
    path = folder / "model.onnx"
    path.write_bytes(_model().SerializeToString())
    return path


def _model() -> onnx.ModelProto:
    """16 → 64 → 4 in FP32 with one ReLU; the same bytes at every run."""
    random = np.random.default_rng(SEED)
    weights = {
        "w1": random.normal(0, 0.25, (INPUTS, HIDDEN)), "b1": random.normal(0, 0.1, HIDDEN),
        "w2": random.normal(0, 0.12, (HIDDEN, OUTPUTS)), "b2": random.normal(0, 0.1, OUTPUTS),
    }  # fmt: skip
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Gemm", ["r", "w2", "b2"], ["y"]),
        ],
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", INPUTS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", OUTPUTS])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    return model


def request_body() -> bytes:
    """One row as the Open Inference Protocol writes it in JSON."""
    row = np.random.default_rng(SEED + 1).normal(size=INPUTS).round(6)
    tensor = {"name": "x", "shape": [1, INPUTS], "datatype": "FP32", "data": row.tolist()}
    return orjson.dumps({"inputs": [tensor]})


def expected_answer(model: Path) -> list[float]:
    """What every server must answer to that request."""
    import onnxruntime as ort

    tensor = orjson.loads(request_body())["inputs"][0]
    rows = np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])
    session = ort.InferenceSession(model.read_bytes(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": rows})
    return [float(value) for value in found.ravel()]
