"""The benchmark's model behind PyTriton (runs in PyTriton's own environment)."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from oip_mlp import open_session
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


class Mlp:
    """One instance of the model, in a process of its own."""

    def __init__(self) -> None:
        self._session: Any = None

    @batch
    def __call__(self, x: Any) -> dict[str, Any]:
        self._session = self._session or open_session()
        (found,) = self._session.run(None, {"x": x})
        return {"y": found}


def main() -> None:
    http, grpc, *_ = map(int, os.environ["BENCH_PORTS"].split())
    config = TritonConfig(
        http_address="127.0.0.1", http_port=http, grpc_address="127.0.0.1", grpc_port=grpc,
        allow_metrics=False, log_verbose=0,
    )  # fmt: skip
    with Triton(config=config, workspace=f"pytriton-{os.getpid()}") as triton:
        triton.bind(
            model_name="mlp", infer_func=[Mlp() for _ in range(int(os.environ["BENCH_WORKERS"]))],
            inputs=[Tensor(name="x", dtype=np.float32, shape=(16,))],
            outputs=[Tensor(name="y", dtype=np.float32, shape=(4,))],
            config=ModelConfig(max_batch_size=int(os.environ["BENCH_BATCH"]) or 1),
        )  # fmt: skip
        triton.serve()


if __name__ == "__main__":
    main()
