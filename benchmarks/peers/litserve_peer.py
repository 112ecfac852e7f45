"""The benchmark's model as a LitServe API (runs in LitServe's own environment)."""

from __future__ import annotations

import os
from typing import Any

import litserve as ls
import numpy as np
from oip_mlp import open_session


class Mlp(ls.LitAPI):
    """The protocol's JSON; one row a request, as the benchmark sends it."""

    def setup(self, device: str) -> None:
        self._session = open_session()

    # LitServe takes annotations of these two for pydantic's, so there are none.
    def decode_request(self, request):
        tensor = request["inputs"][0]
        return np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])

    def batch(self, inputs: list[Any]) -> Any:
        return np.concatenate(inputs)

    def predict(self, rows: Any) -> Any:
        (found,) = self._session.run(None, {"x": rows})
        return found

    def unbatch(self, output: Any) -> list[Any]:
        return [output[row : row + 1] for row in range(len(output))]

    def encode_response(self, found):
        output = {
            "name": "y", "datatype": "FP32", "shape": list(found.shape),
            "data": found.ravel().tolist(),
        }  # fmt: skip
        return {"model_name": "mlp", "outputs": [output]}


if __name__ == "__main__":
    api = Mlp(max_batch_size=int(os.environ["BENCH_BATCH"]) or 1, api_path="/v2/models/mlp/infer")
    server = ls.LitServer(
        api, accelerator="cpu", workers_per_device=int(os.environ["BENCH_WORKERS"]),
        fast_queue=True,
    )  # fmt: skip
    server.run(
        host="127.0.0.1", port=int(os.environ["BENCH_PORTS"].split()[0]), log_level="warning",
        generate_client_file=False, access_log=False,
    )  # fmt: skip
