"""The same service with BentoML's adaptive batching (runs in BentoML's own environment).

What it batches is the one list of the request, and it must answer with a list.
"""

from __future__ import annotations

import os
from typing import Any

import bentoml
import numpy as np
from oip_mlp import open_session


@bentoml.service(
    name="mlp", workers=int(os.environ["BENCH_WORKERS"]), metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)  # fmt: skip
class Mlp:
    """No access log, no metrics; one row a tensor, as the benchmark sends it."""

    def __init__(self) -> None:
        self._session = open_session()

    @bentoml.api(
        route="/v2/models/mlp/infer", batchable=True,
        max_batch_size=int(os.environ["BENCH_BATCH"]), max_latency_ms=1000,
    )  # fmt: skip
    async def infer(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Tensors of several requests to an output each."""
        rows = np.array([tensor["data"] for tensor in inputs], dtype=np.float32)
        (found,) = self._session.run(None, {"x": rows})
        return [
            {"name": "y", "datatype": "FP32", "shape": [1, len(row)], "data": row}
            for row in found.tolist()
        ]
