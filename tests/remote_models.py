"""A real Open Inference server in a process of its own: `python remote_models.py HTTP GRPC [HOST]`.

Written with the platform's own codecs, it serves some honest models and some that are not: `sum`
(FP32), `count` (INT64), `shout` (BYTES) and `classes` compute; the others each do one thing wrong.
`POST /be` with a JSON object changes it: `{"sum": "wider"}` makes `sum` another model, `{"plain": ""}`
lets HTTP take JSON alone, `{"to": URL}` is where `moved` sends its callers.
"""

import http.server
import json
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from citybrain.core.tensors import bytes_array
from citybrain.serving.protocols import grpc as grpc_codec
from citybrain.serving.protocols import oip

SLOW = 3.0


def spec(name, dtype, *shape):
    return {"name": name, "datatype": dtype, "shape": list(shape)}


def add(x):
    return {"y": (x["a"] * 2 + x["b"]).astype(np.float32)}


def shout(x):
    flat = [text.decode().upper().encode() for text in x["text"].ravel()]
    return {"loud": bytes_array(flat, x["text"].shape)}


def late(x):
    time.sleep(SLOW)
    return add(x)


def picky(x):
    if len(x["a"]) > 1:
        raise ValueError("one row only\nand a second line \x1b[31m")
    return add(x)


def classes(x):
    share = 1 / (1 + np.exp(-x["features"].sum(axis=1)))
    return {"probabilities": np.stack([1 - share, share], axis=1).astype(np.float32)}


NUMBERS = ([spec("a", "FP32", -1, 3), spec("b", "FP32", -1, 3)], [spec("y", "FP32", -1, 3)])
MODELS = {
    "sum": (*NUMBERS, add),
    "count": (
        [spec("n", "INT64", -1, 2)],
        [spec("next", "INT64", -1, 2), spec("even", "BOOL", -1, 2)],
        lambda x: {"next": x["n"] + 1, "even": x["n"] % 2 == 0},
    ),
    "shout": ([spec("text", "BYTES", -1)], [spec("loud", "BYTES", -1)], shout),
    "classes": (
        [spec("features", "FP32", -1, 2)],
        [spec("probabilities", "FP32", -1, 2)],
        classes,
    ),  # fmt: skip
    "single": (
        [spec("a", "FP32", 1, 3), spec("b", "FP32", 1, 3)],
        [spec("y", "FP32", 1, 3)],
        picky,
    ),
    "picky": (*NUMBERS, picky),
    "no-batch": ([spec("x", "FP32", 16)], [spec("y", "FP32", 16)], lambda x: {"y": x["x"]}),
    "wider": ([NUMBERS[0][0], spec("b", "FP32", -1, 4)], NUMBERS[1], add),
    "slow": (*NUMBERS, late),
    "other-name": (*NUMBERS, lambda x: {"z": add(x)["y"]}),
    "other-dtype": (*NUMBERS, lambda x: {"y": add(x)["y"].astype(np.float64)}),
    "other-shape": (*NUMBERS, lambda x: {"y": add(x)["y"][:, :2]}),
    "fewer-rows": (*NUMBERS, lambda x: {"y": add(x)["y"][:-1]}),
    "huge": (*NUMBERS, lambda x: {"y": np.zeros((1 << 20, 3), np.float32)}),
    "zipped": (*NUMBERS, add),
    "dripping": (*NUMBERS, add),
    "moved": (*NUMBERS, add),
}
becomes = {}


def answer(name, inputs):
    return MODELS[becomes.get(name, name)][2](inputs)


def metadata(name, version):
    inputs, outputs, _ = MODELS[becomes.get(name, name)]
    return {
        "name": name, "versions": [version or "1"], "platform": "test", "inputs": inputs,
        "outputs": outputs,
    }  # fmt: skip


class Door(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def send(self, status, body, **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"content_length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def model(self):
        parts = self.path.split("/")
        return parts[3], parts[5] if "versions" in parts else ""

    def do_GET(self):
        if self.path in ("/v2/health/live", "/v2/health/ready"):
            return self.send(200, {})
        if self.path == "/v2":
            extensions = [] if "plain" in becomes else ["binary_tensor_data"]
            return self.send(
                200, {"name": "remote\x1b models", "version": "7", "extensions": extensions}
            )
        name, version = self.model()
        if name not in MODELS or version not in ("", "1"):
            return self.send(404, {"error": f"no model {name}"})
        return self.send(200, {} if self.path.endswith("/ready") else metadata(name, version))

    def do_POST(self):
        raw = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/be":
            becomes.clear()
            becomes.update(json.loads(raw))
            return self.send(200, {})
        name, version = self.model()
        if becomes.get(name, name) == "moved":
            return self.send(307, b"", location=becomes["to"])
        try:
            head = int(self.headers.get("inference-header-content-length", -1))
            if head != -1 and "plain" in becomes:
                return self.send(422, {"error": "no JSON"})
            request, tensors = oip.decode(raw, head)
            body, head = oip.encode(request, answer(name, tensors), name, version or "1")
        except Exception as error:
            return self.send(400, {"error": str(error)})
        if becomes.get(name, name) == "dripping":
            self.send(200, b"", inference_header_content_length=head, content_length=len(body))
            for index in range(len(body)):
                time.sleep(0.3)
                self.wfile.write(body[index : index + 1])
            return None
        zipped = {"content_encoding": "gzip"} if becomes.get(name, name) == "zipped" else {}
        return self.send(200, body, inference_header_content_length=head, **zipped)


class Doors(http.server.ThreadingHTTPServer):
    allow_reuse_address = True
    daemon_threads = True


def grpc_server(address):
    import grpc
    from tritonclient.grpc import service_pb2 as pb
    from tritonclient.grpc import service_pb2_grpc

    class Service(service_pb2_grpc.GRPCInferenceServiceServicer):
        def ServerLive(self, request, context):
            return pb.ServerLiveResponse(live=True)

        def ServerMetadata(self, request, context):
            return pb.ServerMetadataResponse(name="remote models", version="7")

        def ModelReady(self, request, context):
            return pb.ModelReadyResponse(
                ready=request.name in MODELS and request.version in ("", "1")
            )

        def ModelMetadata(self, request, context):
            return pb.ModelMetadataResponse(**metadata(request.name, request.version))

        def ModelInfer(self, request, context):
            try:
                _, tensors = grpc_codec.decode(request.SerializeToString())
                raw = grpc_codec.encode(
                    pb.ModelInferRequest(), answer(request.model_name, tensors),
                    request.model_name, request.model_version or "1",
                )  # fmt: skip
            except Exception as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            return pb.ModelInferResponse.FromString(raw)

    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Service(), server)
    if not server.add_insecure_port(address):
        raise OSError(address)
    return server


if __name__ == "__main__":
    http_port, grpc_port, host = int(sys.argv[1]), sys.argv[2], (*sys.argv[3:], "127.0.0.1")[0]
    if ":" in host:
        Doors.address_family = socket.AF_INET6
        shown = f"[{host}]"
    else:
        shown = host
    door = Doors((host, http_port), Door)
    server = grpc_server(f"{shown}:{grpc_port}")
    server.start()
    threading.Thread(target=door.serve_forever, daemon=True).start()
    print("ready", flush=True)
    server.wait_for_termination()
