"""The benchmark's model behind bytes: Open Inference JSON in, one ONNX call, JSON out.

The peers that bring no codec of their own (uvicorn, Ray Serve) share this file, so that they
differ in the server alone. It checks nothing: it is the least that an answer costs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import orjson


def open_session() -> Any:
    """One thread on the CPU, as the platform opens it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    model = Path(os.environ["BENCH_MODEL"]).read_bytes()
    return ort.InferenceSession(model, options, ["CPUExecutionProvider"])


class Mlp:
    """`answer(body)`."""

    def __init__(self) -> None:
        self._session = open_session()

    def answer(self, body: bytes) -> bytes:
        """One request's bytes to one answer's bytes."""
        tensor = orjson.loads(body)["inputs"][0]
        rows = np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])
        (found,) = self._session.run(None, {"x": rows})
        output = {"name": "y", "datatype": "FP32", "shape": found.shape, "data": found.ravel()}
        reply = {"model_name": "mlp", "outputs": [output]}
        return orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)
