"""Open Inference Protocol v2 over gRPC, on the same gateway as every other door."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from citybrain.core.errors import CityBrainError, Refused
from citybrain.core.names import Ref, parse_ref
from citybrain.core.schemas import Key
from citybrain.core.settings import ServingSettings
from citybrain.core.shelf import needs
from citybrain.serving.gateway.asgi import describe, server_metadata
from citybrain.serving.gateway.gateway import Gateway, problem_of
from citybrain.serving.problems import GRPC, status_of
from citybrain.serving.wire import Call

SERVICE = "inference.GRPCInferenceService"
Handler = Callable[[bytes, Any], Awaitable[bytes]]


def grpc_server(gateway: Gateway, settings: ServingSettings, address: str) -> Any:
    """A `grpc.aio` server for this gateway; several processes share the port."""
    with needs():
        import grpc

    handlers: dict[str, Handler] = {
        "ServerLive": _server_live,
        "ServerReady": _Door(gateway).server_ready,
        "ServerMetadata": _server_metadata,
        "ModelReady": _Door(gateway).model_ready,
        "ModelMetadata": _Door(gateway).model_metadata,
        "ModelInfer": _Door(gateway).model_infer,
    }
    methods = {
        name: grpc.unary_unary_rpc_method_handler(_shown(handler))
        for name, handler in handlers.items()
    }
    server = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", 1),
            ("grpc.max_receive_message_length", settings.max_body),
            ("grpc.max_send_message_length", -1),
        ]
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    if server.add_insecure_port(address) == 0:
        raise OSError(f"{address} cannot be bound")
    return server


class _Door:
    """The calls that ask the gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def server_ready(self, body: bytes, context: Any) -> bytes:
        from tritonclient.grpc import service_pb2 as pb

        ready = self._gateway.directory.snapshot.ready
        return bytes(pb.ServerReadyResponse(ready=ready).SerializeToString())

    async def model_ready(self, body: bytes, context: Any) -> bytes:
        from tritonclient.grpc import service_pb2 as pb

        request = pb.ModelReadyRequest.FromString(body)
        ref, key, metadata = self._caller(request.name, request.version, context)
        self._gateway.directory.purpose(key, ref.algorithm, metadata.get("x-purpose", ""))
        self._give_notice(ref, context)
        try:
            self._gateway.directory.route(ref)
            ready = True
        except CityBrainError:
            ready = False
        return bytes(pb.ModelReadyResponse(ready=ready).SerializeToString())

    async def model_metadata(self, body: bytes, context: Any) -> bytes:
        from tritonclient.grpc import service_pb2 as pb

        request = pb.ModelMetadataRequest.FromString(body)
        ref, key, metadata = self._caller(request.name, request.version, context)
        self._gateway.directory.purpose(key, ref.algorithm, metadata.get("x-purpose", ""))
        self._give_notice(ref, context)
        route = self._gateway.directory.route(ref)
        response = pb.ModelMetadataResponse(
            name=ref.algorithm, versions=[str(route.version)],
            platform=f"citybrain_{route.manifest.runtime}",
        )  # fmt: skip
        for side, tensors in describe(route.signature).items():
            for tensor in tensors:
                getattr(response, side).add(**tensor)
        return bytes(response.SerializeToString())

    async def model_infer(self, body: bytes, context: Any) -> bytes:
        from tritonclient.grpc import service_pb2 as pb

        request = pb.ModelInferRequest.FromString(body)
        ref, key, metadata = self._caller(request.model_name, request.model_version, context)
        request_id = self._gateway.new_request_id()
        context.set_trailing_metadata((("x-request-id", request_id),))
        call = Call("grpc", body, -1, "", request_id)
        purpose = metadata.get("x-purpose", "")
        try:
            reply, route = await self._gateway.infer(
                key, ref, call, stated_purpose=purpose, door="oip-grpc"
            )
        except CityBrainError as error:
            if not isinstance(error, Refused):
                self._give_notice(ref, context)
            raise
        if route.notice is not None:
            _add_trailer(context, *route.notice.trailer)
        return reply.body

    def _give_notice(self, ref: Ref, context: Any) -> None:
        if notice := self._gateway.directory.notice(ref):
            _add_trailer(context, *notice.trailer)

    def _caller(self, name: str, version: str, context: Any) -> tuple[Ref, Key, dict[str, str]]:
        metadata = {k: v for k, v in context.invocation_metadata() or () if isinstance(v, str)}
        scheme, _, token = metadata.get("authorization", "").partition(" ")
        key = self._gateway.directory.identify(token if scheme.lower() == "bearer" else "")
        return (
            parse_ref(f"{name.partition('@')[0]}@{version}" if version else name),
            key,
            metadata,
        )


def _add_trailer(context: Any, *pairs: tuple[str, str]) -> None:
    """Trailing metadata beside what was set before."""
    context.set_trailing_metadata((*(context.trailing_metadata() or ()), *pairs))


async def _server_live(_: bytes, __: Any) -> bytes:
    from tritonclient.grpc import service_pb2 as pb

    return bytes(pb.ServerLiveResponse(live=True).SerializeToString())


async def _server_metadata(_: bytes, __: Any) -> bytes:
    from tritonclient.grpc import service_pb2 as pb

    return bytes(pb.ServerMetadataResponse(**server_metadata()).SerializeToString())


def _shown(handler: Handler) -> Handler:
    """Errors as gRPC status codes, with the stable code in the trailing metadata."""

    async def call(body: bytes, context: Any) -> bytes:
        from google.protobuf.message import DecodeError
        from grpc import StatusCode

        codes = {code.value[0]: code for code in StatusCode}
        try:
            return await handler(body, context)
        except DecodeError:
            await context.abort(StatusCode.INVALID_ARGUMENT, "The message cannot be decoded.")
        except Exception as reason:
            error = problem_of(reason)
            _add_trailer(context, ("citybrain-code", error.code))
            await context.abort(codes[GRPC.get(status_of(error), 13)], str(error))
        raise AssertionError("unreachable")

    return call
