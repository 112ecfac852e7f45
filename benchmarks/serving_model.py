"""The tiny model of the serving benchmark, a package of it, and the one request that is sent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import orjson
from onnx import TensorProto, helper, numpy_helper
from serving_workload import Request, Workload, read_json

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


def row() -> np.ndarray:
    """The one row that is sent."""
    return np.random.default_rng(SEED + 1).normal(size=(1, INPUTS)).round(6).astype(np.float32)


def expected_answer(model: Path) -> list[float]:
    """What every server must answer to that row."""
    session = ort.InferenceSession(model.read_bytes(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": row()})
    return [float(value) for value in found.ravel()]


def tiny_workload(folder: Path) -> Workload:
    """The row as the Open Inference Protocol writes it in JSON."""
    model = write_package(folder)
    tensor = {"name": "x", "shape": [1, INPUTS], "datatype": "FP32", "data": row().ravel()}
    body = orjson.dumps({"inputs": [tensor]}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Workload(
        section="tiny", says=f"MLP of {INPUTS}, {HIDDEN} and {OUTPUTS} units, REST, JSON",
        model=model, requests={"json": Request("/v2/models/mlp/infer", body)},
        packages={"json": folder}, read=read_json, expected={"json": expected_answer(model)},
    )  # fmt: skip


def grpc_workload(folder: Path) -> Workload:
    """The row as raw bytes in the protocol's gRPC message."""
    from tritonclient.grpc import service_pb2 as pb

    model = write_package(folder)
    request = pb.ModelInferRequest(model_name="mlp", raw_input_contents=[row().tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=[1, INPUTS])
    return Workload(
        section="grpc", says=f"MLP of {INPUTS}, {HIDDEN} and {OUTPUTS} units, gRPC, raw tensors",
        model=model, requests={"raw": Request("mlp", request.SerializeToString())},
        packages={"raw": folder}, read=read_grpc, expected={"raw": expected_answer(model)},
    )  # fmt: skip


def read_grpc(body: bytes) -> np.ndarray | list[float]:
    """The numbers of a gRPC answer, raw or typed."""
    from tritonclient.grpc import service_pb2 as pb

    answer = pb.ModelInferResponse.FromString(body)
    if answer.raw_output_contents:
        return np.frombuffer(answer.raw_output_contents[0], np.float32)
    return list(answer.outputs[0].contents.fp32_contents)
