"""The vision workload: MobileNetV3 small, as raw tensors, as JSON tensors and as a JPEG file."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import orjson
import psutil
from load import Load, timed
from peers.oip_image import CLASSES, JSON_LENGTH, SIZE, Image, read_tensor
from PIL import Image as Pictures
from serving_workload import Request, Workload

SEED = 20260102
THREADS = 2
BOUNDARY = "citybrain-benchmark"
COMMON = """\
format: 1
name: {name}
title: {{zh: 基准, en: Benchmark}}
description: MobileNetV3 small with random weights, made to measure the server around it.
runtime: onnx
weights: model.onnx
domain: city-management
owner: platform
licence: Apache-2.0
max_batch: 8
"""
TENSOR = f"""\
task: tensor
options:
  inputs: [{{name: images, dtype: FP32, shape: [-1, 3, {SIZE}, {SIZE}]}}]
  outputs: [{{name: logits, dtype: FP32, shape: [-1, {CLASSES}]}}]
"""
CLASSIFIER = f"""\
task: image-classification
options: {{image_size: {SIZE}, labels: [{", ".join(f"c{n}" for n in range(CLASSES))}]}}
"""


def export(path: Path) -> None:
    """An architecture of torchvision with seeded random weights, as ONNX with a free batch axis."""
    import torch
    from torchvision.models import mobilenet_v3_small

    torch.manual_seed(SEED)
    network = mobilenet_v3_small(weights=None, num_classes=CLASSES)
    with torch.no_grad():
        for layer in network.classifier[::3]:  # torchvision's own are so small that logits vanish
            torch.nn.init.kaiming_normal_(layer.weight)
        network.train()  # statistics of noise, so that the activations of random weights stay alive
        for _ in range(10):
            network(torch.rand(8, 3, SIZE, SIZE))
    network.eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            network, (torch.rand(2, 3, SIZE, SIZE),), dynamo=True, verbose=False,
            input_names=["images"], output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        )  # fmt: skip
    exported.save(str(path))


def jpeg() -> bytes:
    """A street-sized picture of smooth noise, 640 × 480."""
    noise = np.random.default_rng(SEED).integers(0, 255, (12, 16, 3), np.uint8)
    file = io.BytesIO()
    Pictures.fromarray(noise).resize((640, 480)).save(file, "JPEG", quality=90)
    return file.getvalue()


def read_answer(body: bytes) -> Any:
    """The numbers in an answer of any of the three kinds."""
    head, end = json.JSONDecoder().raw_decode(body.decode("latin-1"))
    if "outputs" not in head:
        ((result),) = head["results"]
        return list(result["probabilities"].values())
    (output,) = head["outputs"]
    return output["data"] if "data" in output else np.frombuffer(body[end:], np.float32)


def vision_workload(folder: Path) -> Workload:
    """The packages and the three requests."""
    packages = {"bench-vision": TENSOR, "bench-classes": CLASSIFIER}
    for name, text in packages.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "algorithm.yaml").write_text(COMMON.format(name=name) + text)
    model = folder / "bench-vision" / "model.onnx"
    export(model)
    (folder / "bench-classes" / "model.onnx").write_bytes(model.read_bytes())
    picture = jpeg()
    image = Image(model)
    tensor = image.prepare(picture)
    infer, predict = "/v2/models/mlp/infer", "/v1/algorithms/mlp/predict"
    form = (
        f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename="a.jpg"\r\n'
        "content-type: image/jpeg\r\n\r\n"
    ).encode()
    form += picture + f"\r\n--{BOUNDARY}--\r\n".encode()
    head = {"name": "images", "shape": [1, 3, SIZE, SIZE], "datatype": "FP32"}
    sized = head | {"parameters": {"binary_data_size": tensor.nbytes}}
    binary = orjson.dumps({"inputs": [sized], "parameters": {"binary_data_output": True}})
    flat = {"inputs": [head | {"data": tensor.ravel()}]}
    logits = image.logits(tensor)[0].tolist()
    return Workload(
        section="vision", says=f"MobileNetV3 small, 1×3×{SIZE}×{SIZE}", model=model,
        requests={
            "binary": Request(infer, binary + tensor.tobytes(), {
                "content-type": "application/octet-stream", JSON_LENGTH: str(len(binary))}),
            "json": Request(infer, orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)),
            "jpeg": Request(predict, form,
                            {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}),
        },
        packages={"binary": folder / "bench-vision", "json": folder / "bench-vision",
                  "jpeg": folder / "bench-classes"},
        read=read_answer,
        expected={"binary": logits, "json": logits,
                  "jpeg": list(image.classes(picture)["probabilities"].values())},
    )  # fmt: skip


class Threads:
    """A door into this process: threads that read one body and run the model, over and over."""

    def __init__(self, image: Image, request: Request, kind: str) -> None:
        self._image, self._request, self._kind = image, request, kind

    def ask(self) -> tuple[int, bytes]:
        return 200, self._image.answer(self._kind, self._request.body, self._request.headers)

    def load(self, connections: int, seconds: float, *, wrk: bool | None = None) -> Load:
        """Whatever number of connections is asked for: one thread for each core."""
        del connections, wrk
        times: list[float] = []
        deadline = perf_counter() + seconds

        def work() -> None:
            while (started := perf_counter()) < deadline:
                self._run()
                times.append(perf_counter() - started)

        begun = perf_counter()
        with ThreadPoolExecutor(THREADS) as pool:
            for done in [pool.submit(work) for _ in range(THREADS)]:
                done.result()
        return timed(times, perf_counter() - begun)

    def _run(self) -> None:
        if self._kind == "jpeg":
            self._image.classes(self._image.file_of(self._request.body))
        else:
            self._image.logits(read_tensor(self._request.body, self._request.headers))


class RawOnnx:
    """ONNX Runtime without a server: the most that these cores can do."""

    name = "onnxruntime"
    says = f"no server: {THREADS} threads of the benchmark read the body and run the model"

    def __init__(self, workload: Workload) -> None:
        self.counts: tuple[int, ...] = ()
        self._workload = workload

    @contextlib.contextmanager
    def running(self) -> Iterator[dict[str, Threads]]:
        image = Image(self._workload.model)
        yield {
            kind: Threads(image, request, kind) for kind, request in self._workload.requests.items()
        }

    def processes(self) -> list[psutil.Process]:
        return []
