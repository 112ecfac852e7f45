"""Models behind MLServer, which runs in an environment of its own; `write` makes its folder.

Not a part of any other test: MLServer loads it by the name that `model-settings.json` says.
"""

import json
from pathlib import Path

MODELS = {
    "sum": ([("a", "FP32", 3), ("b", "FP32", 3)], [("y", "FP32", 3)]),
    "count": ([("n", "INT64", 2)], [("next", "INT64", 2), ("even", "BOOL", 2)]),
    "shout": ([("text", "BYTES", 1)], [("loud", "BYTES", 1)]),
    "picky": ([("a", "FP32", 1)], [("y", "FP32", 1)]),
    "slow": ([("a", "FP32", 1)], [("y", "FP32", 1)]),
}


def write(folder, http, grpc, metrics):
    """What `mlserver start FOLDER` reads."""
    settings = {
        "host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": metrics,
        "parallel_workers": 0, "metrics_endpoint": None,
    }  # fmt: skip
    Path(folder, "settings.json").write_text(json.dumps(settings))
    for name, sides in MODELS.items():
        inputs, outputs = (
            [{"name": n, "datatype": kind, "shape": [-1, *shape]} for n, kind, *shape in side]
            for side in sides
        )
        model = {
            "name": name, "implementation": "mlserver_models.Model", "inputs": inputs,
            "outputs": outputs, "parameters": {"version": "1"},
        }  # fmt: skip
        Path(folder, name).mkdir()
        Path(folder, name, "model-settings.json").write_text(json.dumps(model))


try:
    from mlserver import MLModel
except ImportError:  # `write` is called where it is not installed
    MLModel = object


class Model(MLModel):
    """All of them, by name."""

    async def load(self):
        return True

    async def predict(self, payload):
        import asyncio

        import numpy as np
        from mlserver.codecs import NumpyCodec, StringCodec
        from mlserver.errors import InferenceError
        from mlserver.types import InferenceResponse

        def numbers(entry):
            return NumpyCodec.decode_input(entry)

        inputs = {entry.name: entry for entry in payload.inputs}
        if self.name == "sum":
            found = {"y": numbers(inputs["a"]) * 2 + numbers(inputs["b"])}
        elif self.name == "count":
            n = numbers(inputs["n"])
            found = {"next": n + 1, "even": n % 2 == 0}
        elif self.name == "shout":
            texts = [text.upper() for text in StringCodec.decode_input(inputs["text"])]
            answer = StringCodec.encode_output("loud", texts)
            answer.shape = [len(texts), 1]
            return InferenceResponse(model_name=self.name, outputs=[answer])
        else:
            a = numbers(inputs["a"])
            if self.name == "slow":
                await asyncio.sleep(3)
            elif (a < 0).any():
                raise InferenceError("no negative numbers\nand a second line")
            found = {"y": a}
        outputs = [NumpyCodec.encode_output(name, np.asarray(a)) for name, a in found.items()]
        return InferenceResponse(model_name=self.name, outputs=outputs)
