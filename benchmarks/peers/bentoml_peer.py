"""The benchmark's model as a BentoML service (runs in BentoML's own environment)."""

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
    """No access log, no metrics: as fast as its settings make it."""

    def __init__(self) -> None:
        self._session = open_session()

    @bentoml.api(route="/v2/models/mlp/infer")
    async def infer(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """The protocol's JSON; asynchronous, which spares a hop to a thread."""
        (tensor,) = inputs
        rows = np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])
        (found,) = self._session.run(None, {"x": rows})
        output = {
            "name": "y", "datatype": "FP32", "shape": list(found.shape),
            "data": found.ravel().tolist(),
        }  # fmt: skip
        return {"model_name": "mlp", "outputs": [output]}
