"""Models behind a real Triton server: `python triton_models.py HTTP GRPC WORKSPACE`.

Not a part of any other test: it runs in an environment of its own, which has nvidia-pytriton.
"""

import sys
import time

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


@batch
def add(a, b):
    return {"y": a * 2 + b}


@batch
def count(n):
    return {"next": n + 1, "even": n % 2 == 0}


@batch
def shout(text):
    upper = [value.decode().upper().encode() for value in text.ravel()]
    return {"loud": np.array(upper, dtype=np.bytes_).reshape(text.shape)}


@batch
def half(x):
    return {"y": (x * 2).astype(np.float16)}


@batch
def picky(a):
    if (a < 0).any():
        raise ValueError("no negative numbers\nand a second line")
    return {"y": a}


@batch
def slow(a):
    time.sleep(3)
    return {"y": a}


def tensor(name, dtype, *shape):
    return Tensor(name=name, dtype=dtype, shape=shape)


F = np.float32
MODELS = {
    "sum": (add, [tensor("a", F, 3), tensor("b", F, 3)], [tensor("y", F, 3)], 8),
    "count": (
        count,
        [tensor("n", np.int64, 2)],
        [tensor("next", np.int64, 2), tensor("even", np.bool_, 2)],
        64,
    ),
    "shout": (shout, [tensor("text", np.bytes_, 1)], [tensor("loud", np.bytes_, 1)], 64),
    "half": (half, [tensor("x", np.float16, -1)], [tensor("y", np.float16, -1)], 64),
    "picky": (picky, [tensor("a", F, 1)], [tensor("y", F, 1)], 64),
    "slow": (slow, [tensor("a", F, 1)], [tensor("y", F, 1)], 64),
    "single": (add, [tensor("a", F, 3), tensor("b", F, 3)], [tensor("y", F, 3)], 1),
}


if __name__ == "__main__":
    http, grpc = int(sys.argv[1]), int(sys.argv[2])
    config = TritonConfig(
        http_address="127.0.0.1", http_port=http, grpc_address="127.0.0.1", grpc_port=grpc,
        allow_metrics=False, log_verbose=0,
    )  # fmt: skip
    with Triton(config=config, workspace=sys.argv[3]) as triton:
        for name, (function, inputs, outputs, most) in MODELS.items():
            triton.bind(
                model_name=name, infer_func=function, inputs=inputs, outputs=outputs,
                config=ModelConfig(max_batch_size=most, batcher=DynamicBatcher()), strict=True,
            )  # fmt: skip
        triton.serve()
