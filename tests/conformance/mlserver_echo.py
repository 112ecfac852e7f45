"""The echo model for MLServer, to run the suite against it; docs/doors.md tells how.

Not a part of any test run: it is loaded by MLServer, in an environment of its own.
"""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.errors import MLServerError
from mlserver.types import InferenceRequest, InferenceResponse


class Echo(MLModel):
    """Gives every input back as `y_…`, with `x_fp32` doubled as `twice`."""

    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        outputs = []
        for entry in payload.inputs:
            if entry.datatype == "BYTES":
                found = StringCodec.encode_output("y_bytes", StringCodec.decode_input(entry))
                found.shape = entry.shape
            else:
                values = NumpyCodec.decode_input(entry)
                found = NumpyCodec.encode_output(entry.name.replace("x_", "y_", 1), values)
                if entry.name == "x_fp32":
                    outputs.append(NumpyCodec.encode_output("twice", values + values))
            outputs.append(found)
        if payload.outputs:
            asked = {output.name for output in payload.outputs}
            if unknown := asked - {output.name for output in outputs}:
                raise MLServerError(f"There is no output {sorted(unknown)[0]}.", 400)
            outputs = [output for output in outputs if output.name in asked]
        return InferenceResponse(model_name=self.name, outputs=outputs)
