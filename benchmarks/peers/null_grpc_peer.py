"""The least that a gRPC call costs in Python: the same service, answering a constant."""

from __future__ import annotations

import os
from typing import Any

import grpc
import numpy as np
import uvloop
from oip_mlp import open_session
from tritonclient.grpc import service_pb2 as pb

answers: list[pb.ModelInferResponse] = []


async def infer(request: pb.ModelInferRequest, _: Any) -> pb.ModelInferResponse:
    """The answer to the first request, whatever is asked later."""
    if not answers:
        row = np.frombuffer(request.raw_input_contents[0], np.float32)[None]
        (found,) = open_session().run(None, {"x": row})
        answer = pb.ModelInferResponse(model_name="mlp", raw_output_contents=[found.tobytes()])
        answer.outputs.add(name="y", datatype="FP32", shape=found.shape)
        answers.append(answer)
    return answers[0]


async def main() -> None:
    method = grpc.unary_unary_rpc_method_handler(
        infer, pb.ModelInferRequest.FromString, pb.ModelInferResponse.SerializeToString
    )
    service = grpc.method_handlers_generic_handler(
        "inference.GRPCInferenceService", {"ModelInfer": method}
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((service,))
    server.add_insecure_port("127.0.0.1:" + os.environ["BENCH_PORTS"].split()[1])
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main())
