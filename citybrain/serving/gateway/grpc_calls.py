"""The calls of the Open Inference Protocol v2 over gRPC that ask the gateway."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, NamedTuple
from urllib.parse import unquote

from citybrain.core.errors import BadTensor, CityBrainError, Refused
from citybrain.core.names import Ref, parse_ref
from citybrain.core.schemas import Key
from citybrain.serving.gateway.answered import Answered
from citybrain.serving.gateway.descriptions import describe, index
from citybrain.serving.gateway.gateway import Asked, Gateway, problem_of
from citybrain.serving.gateway.messages import problem_headers, timeout_in
from citybrain.serving.problems import GRPC, status_of
from citybrain.serving.wire import Call, Reply

DOOR = "oip-grpc"


class Caller(NamedTuple):
    """Which model is asked, by whom, and the call's metadata."""

    ref: Ref
    key: Key
    metadata: dict[str, str]
    source: str
    """The address that it calls from."""


class Calls:
    """The calls that ask the gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.closing = gateway.closing

    async def server_ready(self, body: bytes, context: Any) -> bytes:
        from tritonclient.grpc import service_pb2 as pb

        ready = self._gateway.directory.snapshot.ready and not self.closing.begun
        return bytes(pb.ServerReadyResponse(ready=ready).SerializeToString())

    async def model_ready(self, body: bytes, context: Any) -> bytes:
        from tritonclient.grpc import service_pb2 as pb

        request = pb.ModelReadyRequest.FromString(body)
        ref = self._permitted(request.name, request.version, context)
        self._give_notice(ref, context)
        try:
            directory = self._gateway.directory
            ready = not directory.snapshot.trouble(directory.route(ref))
        except CityBrainError:
            ready = False
        return bytes(pb.ModelReadyResponse(ready=ready).SerializeToString())

    async def model_metadata(self, body: bytes, context: Any) -> bytes:
        from tritonclient.grpc import service_pb2 as pb

        request = pb.ModelMetadataRequest.FromString(body)
        ref = self._permitted(request.name, request.version, context)
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

    async def repository_index(self, body: bytes, context: Any) -> bytes:
        from tritonclient.grpc import service_pb2 as pb

        pb.RepositoryIndexRequest.FromString(body)
        models = index(self._gateway.directory, self.identify(context)[0])
        return bytes(pb.RepositoryIndexResponse(models=models).SerializeToString())

    async def model_infer(self, body: bytes, context: Any) -> bytes:
        from tritonclient.grpc import service_pb2 as pb

        request_id = self.new_request_id()
        context.set_trailing_metadata((("x-request-id", request_id),))
        request = pb.ModelInferRequest.FromString(body)
        caller = self.caller(request.model_name, request.model_version, context)
        try:
            answered = await self.infer(caller, body, context, request_id)
        except CityBrainError as error:
            if not isinstance(error, Refused):
                self._give_notice(caller.ref, context)
            raise
        if answered.request_id:
            _put_trailer(context, "x-request-id", answered.request_id)
        if answered.again:
            _add_trailer(context, ("idempotent-replayed", "true"))
        limits = [(name.decode(), value.decode()) for name, value in answered.limits]
        _add_trailer(context, ("x-data-level", str(answered.level)), *limits)
        if answered.instead:
            _add_trailer(context, ("x-fallback", answered.route.target))
        if answered.route.notice is not None:
            _add_trailer(context, *answered.route.notice.trailer)
        return answered.reply.body

    def new_request_id(self) -> str:
        """The gateway's."""
        return self._gateway.new_request_id()

    async def infer(
        self, caller: Caller, body: bytes, context: Any, request_id: str, *, parts: bool = False
    ) -> Answered:
        """One request's bytes through the gateway, within the time that its caller gives."""
        asked = Asked(
            caller.key, caller.ref, DOOR, caller.metadata.get("x-purpose", ""),
            _time_left(context, caller.metadata), None, caller.metadata.get("x-sticky-key", ""),
            caller.metadata.get("traceparent", ""), caller.metadata.get("idempotency-key", ""),
            caller.source,
        )  # fmt: skip
        call = Call("grpc", body, -1, "", request_id, parts=parts)
        return await self._gateway.infer(asked, call)

    def parts(self, answered: Answered) -> AsyncGenerator[Reply]:
        """All parts of an answer, and then the whole; of most answers only that."""
        return self._gateway.parts(answered)

    def _give_notice(self, ref: Ref, context: Any) -> None:
        if notice := self._gateway.directory.notice(ref):
            _add_trailer(context, *notice.trailer)

    def caller(self, name: str, version: str, context: Any) -> Caller:
        """Who calls which model; NotSignedIn without a good key."""
        key, metadata = self.identify(context)
        ref = parse_ref(f"{name.partition('@')[0]}@{version}" if version else name)
        source = self._gateway.directory.source(_peer(context), _forwarded(metadata))
        return Caller(ref, key, metadata, source)

    def _permitted(self, name: str, version: str, context: Any) -> Ref:
        """The model that is asked about, by somebody who may call it."""
        ref, key, metadata, source = self.caller(name, version, context)
        self._gateway.permit(Asked(key, ref, DOOR, metadata.get("x-purpose", ""), source=source))
        return ref

    def identify(self, context: Any) -> tuple[Key, dict[str, str]]:
        """Whose call this is, and its metadata; NotSignedIn without a good key."""
        metadata = {k: v for k, v in context.invocation_metadata() or () if isinstance(v, str)}
        scheme, _, token = metadata.get("authorization", "").partition(" ")
        self._gateway.admit(_peer(context), DOOR)
        shown = token if scheme.lower() == "bearer" else ""
        key = self._gateway.identify(shown, "", _peer(context), _forwarded(metadata), DOOR)
        return key, metadata


def _forwarded(metadata: dict[str, str]) -> str:
    return metadata.get("x-forwarded-for", "")[:1000]


def _peer(context: Any) -> str:
    """The address of `ipv4:127.0.0.1:5000` or `ipv6:[::1]:5000`."""
    _, _, address = unquote(context.peer()).partition(":")
    return address.rpartition(":")[0].strip("[]")


def _time_left(context: Any, metadata: dict[str, str]) -> float:
    """Seconds until the caller gives up, by gRPC's own deadline or the header of the other doors."""
    said = timeout_in(metadata.get("x-request-timeout-ms", "").encode())
    left = context.time_remaining()
    return said if left is None else min(said, float(left))


def _add_trailer(context: Any, *pairs: tuple[str, str]) -> None:
    """Trailing metadata beside what was set before."""
    context.set_trailing_metadata((*(context.trailing_metadata() or ()), *pairs))


def _put_trailer(context: Any, name: str, value: str) -> None:
    """Trailing metadata in place of what was set under this name."""
    others = [pair for pair in context.trailing_metadata() or () if pair[0] != name]
    context.set_trailing_metadata((*others, (name, value)))


def error_of(reason: Exception) -> CityBrainError:
    """Any exception of a call as an error that may be shown."""
    from google.protobuf.message import DecodeError

    if isinstance(reason, DecodeError):
        return BadTensor("The message cannot be decoded.")
    return problem_of(reason)


async def end(context: Any, error: CityBrainError) -> None:
    """End a call with an error's status, its code in the trailing metadata."""
    from grpc import StatusCode

    codes = {code.value[0]: code for code in StatusCode}
    later = [(b.decode(), v.decode()) for b, v in problem_headers(error) if b == b"retry-after"]
    _add_trailer(context, ("citybrain-code", error.code), *later)
    await context.abort(codes[GRPC.get(status_of(error), 13)], str(error))
