"""Load on one gRPC address of this machine: calls of `ModelInfer` as bytes, one at a time a channel.

The bytes are not parsed here, so that the generator is cheap and what differs is the server.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import grpc
import uvloop
from load import Load, timed

METHOD = "/inference.GRPCInferenceService/ModelInfer"
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


@dataclass(frozen=True)
class GrpcTarget:
    """Where a call goes and what it is."""

    port: int
    model: str
    """Its name there, put in place of the request's."""
    message: bytes
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        """The request for the model of this server."""
        from tritonclient.grpc import service_pb2 as pb

        request = pb.ModelInferRequest.FromString(self.message)
        request.model_name = self.model
        return bytes(request.SerializeToString())

    def ask(self, timeout: float = 10.0) -> tuple[int, bytes]:
        """One call on a channel of its own: 200 and the answer, or gRPC's code and its words."""
        with grpc.insecure_channel(f"127.0.0.1:{self.port}", OWN_CONNECTION) as channel:
            try:
                answer = channel.unary_unary(METHOD)(
                    self.body, timeout=timeout, metadata=tuple(self.metadata.items())
                )
            except grpc.RpcError as error:
                return error.code().value[0], error.details().encode()
        return 200, bytes(answer)

    def load(self, connections: int, seconds: float, *, wrk: bool | None = None) -> Load:
        """As many channels, each with one call at a time; it waits for the last answers."""
        del wrk  # it speaks HTTP/1 only
        return uvloop.run(generate(self, connections, seconds))


async def generate(target: GrpcTarget, channels: int, seconds: float) -> Load:
    """The load itself."""
    body, metadata = target.body, tuple(target.metadata.items())
    times: list[float] = []
    refused = 0

    async def keep_busy(channel: Any) -> None:
        nonlocal refused
        call = channel.unary_unary(METHOD)
        while (sent := time.perf_counter()) < deadline:
            try:
                await call(body, timeout=30, metadata=metadata)
            except grpc.aio.AioRpcError:
                refused += 1
            times.append(time.perf_counter() - sent)

    opened = [
        grpc.aio.insecure_channel(f"127.0.0.1:{target.port}", OWN_CONNECTION)
        for _ in range(channels)
    ]
    await asyncio.gather(*(channel.channel_ready() for channel in opened))
    started = time.perf_counter()
    deadline = started + seconds
    await asyncio.gather(*(keep_busy(channel) for channel in opened))
    took = time.perf_counter() - started
    await asyncio.gather(*(channel.close() for channel in opened))
    return timed(times, took, refused)
