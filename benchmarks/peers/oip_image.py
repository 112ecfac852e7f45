"""The vision model behind bytes: a tensor or a JPEG in, one ONNX call, its answer out.

Shared by the plain server and by the threads without a server. It checks nothing. The JPEG is
decoded and scaled by the platform's own functions, so that the servers differ and not the work.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import orjson

from citybrain.models.images import decode, resize

SIZE, CLASSES = 224, 10
JSON_LENGTH = "inference-header-content-length"


def read_tensor(body: bytes, headers: Mapping[str, str]) -> Any:
    """The one tensor of an Open Inference Protocol request, in JSON or raw behind it."""
    length = int(headers.get(JSON_LENGTH, 0)) or len(body)
    (tensor,) = orjson.loads(memoryview(body)[:length])["inputs"]
    if "data" in tensor:
        return np.array(tensor["data"], np.float32).reshape(tensor["shape"])
    return np.frombuffer(body, np.float32, offset=length).reshape(tensor["shape"])


class Image:
    """`answer(kind, body, headers)`, with one thread a call, as the platform opens the model."""

    def __init__(self, model: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(model, options, ["CPUExecutionProvider"])

    def logits(self, tensor: Any) -> Any:
        """One run."""
        return self._session.run(None, {"images": tensor})[0]

    def prepare(self, file: bytes) -> Any:
        """A JPEG file as the model's tensor."""
        square = resize(decode(file, at_least=SIZE), SIZE, SIZE)
        return np.ascontiguousarray((square / np.float32(255)).transpose(2, 0, 1)[None])

    def file_of(self, body: bytes) -> bytes:
        """The file of a form that holds one."""
        begin = body.index(b"\r\n\r\n") + 4
        return body[begin : body.rindex(b"\r\n--")]

    def classes(self, file: bytes) -> dict[str, Any]:
        """Probabilities of a JPEG file."""
        (logits,) = self.logits(self.prepare(file))
        powers = np.exp(logits - logits.max())
        probabilities = (powers / powers.sum()).tolist()
        named = {f"c{n}": probabilities[n] for n in range(CLASSES)}
        return {"label": max(named, key=lambda name: named[name]), "probabilities": named}

    def answer(self, kind: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        """One request's bytes to one answer's bytes."""
        if kind == "jpeg":
            return orjson.dumps({"results": [self.classes(self.file_of(body))]})
        found = self.logits(read_tensor(body, headers))
        output = {"name": "logits", "datatype": "FP32", "shape": found.shape}
        if kind == "binary":
            output["parameters"] = {"binary_data_size": found.nbytes}
            return orjson.dumps({"model_name": "mlp", "outputs": [output]}) + found.tobytes()
        answer = {"model_name": "mlp", "outputs": [output | {"data": found.ravel()}]}
        return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
