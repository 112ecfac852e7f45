"""Open Inference Protocol v2 over gRPC, on the same gateway as every other door."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from citybrain.core.settings import ServingSettings
from citybrain.core.shelf import needs
from citybrain.serving.gateway.descriptions import server_metadata
from citybrain.serving.gateway.gateway import Gateway
from citybrain.serving.gateway.grpc_calls import Calls, end, error_of
from citybrain.serving.gateway.grpc_stream import Stream
from citybrain.serving.gateway.routes import GRPC

PAUSE_SECONDS = 0.5
STILL_SECONDS = 0.1
"""How long no call has to come, and for how long at most that is waited for."""
TOLD_SECONDS = 0.02
"""Within which clients are told to go."""
SERVICE = "inference.GRPCInferenceService"
STREAMS = 256
"""Calls at a time on one connection; a client's next ones wait at its own end."""
IDLE_MS = 300_000
"""After so long without a call a connection ends; clients open it again by themselves."""
Handler = Callable[[bytes, Any], Awaitable[bytes]]


def grpc_server(
    gateway: Gateway, settings: ServingSettings, address: str,
    pair: tuple[Path, Path] | None = None,
) -> GrpcServer:  # fmt: skip
    """A `grpc.aio` server for this gateway; several processes share the port.

    `pair`: the certificate and key of a door that speaks TLS.
    """
    with needs():
        import grpc

    calls = Calls(gateway)
    handlers: dict[str, Handler] = {
        "ServerLive": _server_live,
        "ServerReady": calls.server_ready,
        "ServerMetadata": _server_metadata,
        "ModelReady": calls.model_ready,
        "ModelMetadata": calls.model_metadata,
        "ModelInfer": calls.model_infer,
        "RepositoryIndex": calls.repository_index,
    }
    pause = Pause()
    methods = {
        name: grpc.unary_unary_rpc_method_handler(_shown(handler, pause))
        for name, handler in handlers.items()
    }
    methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(Stream(calls).answer)
    methods = {name: methods[name] for name in GRPC}
    server = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", 1),
            ("grpc.max_receive_message_length", settings.max_body),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", STREAMS),
            ("grpc.max_connection_idle_ms", IDLE_MS),
        ],
        maximum_concurrent_rpcs=settings.max_grpc_calls,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    if pair is None:
        port = server.add_insecure_port(address)
    else:
        certificate, key = (path.read_bytes() for path in pair)
        port = server.add_secure_port(address, grpc.ssl_server_credentials([(key, certificate)]))
    if port == 0:
        raise OSError(f"{address} cannot be bound")
    return GrpcServer(server, pause)


class Pause:
    """Keeps answers back for a moment, so that callers who wait for one send nothing meanwhile."""

    def __init__(self) -> None:
        self._over: asyncio.Event | None = None
        self._arrived = 0.0

    def arrived(self) -> None:
        """A call came."""
        self._arrived = time.monotonic()

    async def passed(self) -> None:
        """An answer is ready; it may leave when this returns."""
        if self._over is not None:
            await self._over.wait()

    async def begin(self) -> None:
        """Keep answers back, and return when no call comes any more, or after half a second."""
        self._over = asyncio.Event()
        until = time.monotonic() + PAUSE_SECONDS
        while time.monotonic() < min(until, self._arrived + STILL_SECONDS):  # noqa: ASYNC110
            await asyncio.sleep(STILL_SECONDS / 5)

    def end(self) -> None:
        """Let them leave."""
        if self._over is not None:
            self._over.set()


class GrpcServer:
    """The server of this door, which ends without cancelling a call.

    gRPC's own server tells its clients to go, and cancels whatever they send until they have heard
    it. So answers are kept back for that moment: a client hears it before it sends its next call.
    """

    def __init__(self, server: Any, pause: Pause) -> None:
        self._server = server
        self._pause = pause

    async def start(self) -> None:
        """Take calls from now on."""
        await self._server.start()

    async def stop(self, seconds: float | None) -> None:
        """Take no more, and answer those under way within the seconds that there are."""
        if seconds is None:
            await self._server.stop(None)
            return
        await self._pause.begin()
        stopping = asyncio.create_task(self._server.stop(seconds))
        await asyncio.sleep(TOLD_SECONDS)
        self._pause.end()
        await stopping


async def _server_live(_: bytes, __: Any) -> bytes:
    from tritonclient.grpc import service_pb2 as pb

    return bytes(pb.ServerLiveResponse(live=True).SerializeToString())


async def _server_metadata(_: bytes, __: Any) -> bytes:
    from tritonclient.grpc import service_pb2 as pb

    return bytes(pb.ServerMetadataResponse(**server_metadata()).SerializeToString())


def _shown(handler: Handler, pause: Pause) -> Handler:
    """Errors as gRPC status codes, with the stable code in the trailing metadata."""

    async def call(body: bytes, context: Any) -> bytes:
        pause.arrived()
        try:
            answer = await handler(body, context)
            await pause.passed()
            return answer
        except Exception as reason:
            await pause.passed()
            await end(context, error_of(reason))
        raise AssertionError("unreachable")

    return call
