"""How a case asks the server under test, over HTTP and gRPC."""

import json
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
import httpx
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from conformance.bodies import SAMPLES, pack, shape_of

AS_JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Server:
    """Somebody who says that he speaks the protocol, and has the echo model."""

    url: str
    grpc: str
    model: str
    key: str
    http: httpx.Client
    version: str = ""
    """Of the model, on our own platform; empty for another server."""

    @property
    def headers(self):
        """Fresh each time: tritonclient adds its own to what it is given."""
        return {"authorization": f"Bearer {self.key}"} if self.key else {}

    @property
    def address(self):
        return self.url.removeprefix("http://")

    @property
    def path(self):
        return f"/v2/models/{self.model}/infer"

    def predict_path(self, name=""):
        """Where the task API of an algorithm is; without a name, that of the echo."""
        return f"/v1/algorithms/{name or self.model}/predict"

    @property
    def metadata(self):
        return tuple(self.headers.items())

    def post(self, body, headers=None):
        return self.http.post(self.path, content=body, headers={**AS_JSON, **(headers or {})})

    def ask(self, *inputs, raw=None, headers=None, **more):
        """POST a request of these inputs; with `raw`, the bytes that follow its JSON."""
        head = json.dumps({"inputs": inputs, **more}).encode()
        sent = dict(headers or {})
        if raw is not None:
            sent = {"inference-header-content-length": str(len(head))} | sent
        return self.post(head + (raw or b""), sent)

    def ask_binary(self, *pairs, **more):
        """POST a request with inputs from `bodies.binary`."""
        return self.ask(*(entry for entry, _ in pairs), raw=b"".join(r for _, r in pairs), **more)

    def message(self, *datatypes, values=None, outputs=(), **more):
        """A ModelInferRequest with a sample of each datatype as raw contents."""
        found = pb.ModelInferRequest(model_name=self.model, **more)
        for datatype in datatypes:
            rows = SAMPLES[datatype] if values is None else values
            found.inputs.add(name=f"x_{datatype.lower()}", datatype=datatype, shape=shape_of(rows))
            found.raw_input_contents.append(pack(datatype, rows))
        for name in outputs:
            found.outputs.add(name=name)
        return found

    @contextmanager
    def stub(self):
        """The protocol's own generated client on a fresh channel."""
        with grpc.insecure_channel(self.grpc) as channel:
            yield service_pb2_grpc.GRPCInferenceServiceStub(channel)

    def infer(self, message, metadata=(), timeout=20, **more):
        """One unary call."""
        with self.stub() as stub:
            metadata = (*self.metadata, *metadata)
            return stub.ModelInfer(message, metadata=metadata, timeout=timeout, **more)


def refused(server, answer, status=None, code=None):
    """A client error that shows nothing of the inside; ours: with a text, this status and code."""
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text[:300])
    assert "Traceback" not in answer.text
    if server.version:
        assert answer.json()["error"]
        if code:
            assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
