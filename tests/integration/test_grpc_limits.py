"""How many gRPC calls a gateway has open, and who may open them."""

import asyncio

import grpc
import pytest
from support import free_ports
from support_door import Door
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as stubs

from citybrain.core.errors import Overloaded
from citybrain.core.settings import ServingSettings
from citybrain.serving.gateway.grpc_door import grpc_server
from citybrain.serving.wire import Reply, Served

ANSWER = pb.ModelInferResponse(model_name="flow").SerializeToString()
REQUEST = pb.ModelInferRequest(model_name="flow")


def served(folder, go, send, **settings):
    """Run `go(stub, metadata)` against a gateway's gRPC door."""
    door = Door(folder)
    (port,) = free_ports(1)

    async def run():
        server = grpc_server(door.gateway(send), ServingSettings(**settings), f"127.0.0.1:{port}")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            metadata = (("authorization", f"Bearer {door.key}"),)
            await go(stubs.GRPCInferenceServiceStub(channel), metadata)
        await server.stop(0)

    asyncio.run(run())


async def code_of(call):
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_more_calls_than_the_setting_are_refused_and_the_others_answered(tmp_path):
    release = asyncio.Event()

    async def waits(_, calls):
        await release.wait()
        return Served([Reply(ANSWER, -1, 1, "", "") for _ in calls])

    async def go(stub, metadata):
        calls = [stub.ModelInfer(REQUEST, metadata=metadata) for _ in range(5)]
        await asyncio.sleep(1)
        release.set()
        codes = [await code_of(call) for call in calls]
        assert codes.count(grpc.StatusCode.OK) == 3
        assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 2
        assert await code_of(stub.ModelInfer(REQUEST, metadata=metadata)) == grpc.StatusCode.OK

    served(tmp_path, go, waits, max_grpc_calls=3)


def test_a_stranger_keeps_no_stream_open(tmp_path):
    async def go(stub, _):
        stream = stub.ModelStreamInfer()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await asyncio.wait_for(stream.read(), 5)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED

    served(tmp_path, go, None)


def test_a_full_line_says_when_to_come_back(tmp_path):
    async def full(*_):
        raise Overloaded("full")

    async def go(stub, metadata):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ModelInfer(REQUEST, metadata=metadata)
        assert dict(refused.value.trailing_metadata())["retry-after"] == "1"

    served(tmp_path, go, full)
