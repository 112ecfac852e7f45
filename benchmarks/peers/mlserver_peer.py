"""The benchmark's model as an MLServer runtime (runs in MLServer's own environment)."""

from __future__ import annotations

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from oip_mlp import open_session


class OnnxMlp(MLModel):
    """`predict` as MLServer's guide writes it, with its own numpy codec."""

    async def load(self) -> bool:
        self._session = open_session()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        (found,) = self._session.run(None, {"x": rows})
        output = NumpyCodec.encode_output("y", found)
        return InferenceResponse(model_name=self.name, outputs=[output])
