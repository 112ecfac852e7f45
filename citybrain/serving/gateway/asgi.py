"""The gateway's HTTP doors as one plain ASGI callable.

Hot routes are parsed by hand: `POST /v2/models/{name}[/versions/{v}]/infer` and
`POST /v1/algorithms/{name}/predict`. What is not data plane goes to the control process.
"""

from __future__ import annotations

import contextlib
from functools import lru_cache
from urllib.parse import unquote

import orjson

from citybrain import __version__
from citybrain.core.errors import BadJson, CityBrainError, NotFound, NotSignedIn, Refused
from citybrain.core.names import Ref, parse_ref
from citybrain.core.schemas import Key
from citybrain.core.settings import ServingSettings
from citybrain.core.tensors import Signature
from citybrain.serving.gateway.forward import Forwarder
from citybrain.serving.gateway.gateway import Gateway, problem_of
from citybrain.serving.gateway.messages import (
    Disconnected,
    Headers,
    Receive,
    Scope,
    Send,
    bearer,
    read_body,
    respond,
    respond_problem,
    session,
)
from citybrain.serving.wire import Call

CONTROLLED = ("/v1/features/", "/v1/requests/")  # rare enough for the control process
MAX_PATH = 512
EXTENSIONS = ["binary_tensor_data", "model_repository"]


class Application:
    """Every HTTP request of the public port arrives here."""

    def __init__(self, gateway: Gateway, forward: Forwarder, settings: ServingSettings) -> None:
        self._gateway = gateway
        self._forward = forward
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != "http":
            return
        request_id = ""
        try:
            path: str = scope["path"]
            if path.startswith(("/v2", "/v1/")):
                request_id = self._gateway.new_request_id()
                headers: Headers = dict(scope["headers"])
                if path.startswith(CONTROLLED):
                    await self._forward(scope, receive, send)
                else:
                    method: str = scope["method"]
                    await self._data_plane(method, path, headers, receive, send, request_id)
            else:
                await self._forward(scope, receive, send)
        except Disconnected:
            return
        except Exception as error:  # the one place where a door turns errors into answers
            problem = problem_of(error)
            await respond_problem(send, problem, request_id, extra=self._notice(scope, problem))

    def _notice(self, scope: Scope, error: CityBrainError) -> tuple[tuple[bytes, bytes], ...]:
        """A retired algorithm's notice beside an error, for who may call it."""
        parts = _parts(scope["path"][:MAX_PATH])
        if isinstance(error, NotSignedIn | Refused) or len(parts) < 3:
            return ()
        headers: Headers = dict(scope["headers"])
        with contextlib.suppress(CityBrainError):
            if parts[:2] == ["v1", "algorithms"]:
                ref = parse_ref(parts[2])
            else:
                ref = _model(parts[:-1] if parts[-1] in ("infer", "ready") else parts)
            key = self._gateway.directory.identify(bearer(headers), session(headers))
            self._gateway.directory.purpose(key, ref.algorithm, _purpose(headers))
            notice = self._gateway.directory.notice(ref)
            return notice.headers if notice else ()
        return ()

    async def _data_plane(
        self, method: str, path: str, headers: Headers, receive: Receive, send: Send,
        request_id: str,
    ) -> None:  # fmt: skip
        if len(path) > MAX_PATH:
            raise NotFound(f"{method} {path[:100]}… is not a route.")
        parts = _parts(path)
        if method == "GET" and parts in (
            ["v2"],
            ["v2", "health", "live"],
            ["v2", "health", "ready"],
        ):
            await self._health(parts, send)
            return
        key = self._gateway.directory.identify(bearer(headers), session(headers))
        if method == "POST" and parts[0] == "v2" and parts[-1] == "infer":
            await self._infer(_ref_of(path), key, headers, receive, send, request_id)
        elif (
            method == "POST"
            and parts[:2] == ["v1", "algorithms"]
            and len(parts) == 4
            and parts[3] == "predict"
        ):
            await self._predict(parse_ref(parts[2]), key, headers, receive, send, request_id)
        elif method == "POST" and parts == ["v2", "repository", "index"]:
            await self._index(key, send)
        elif method == "GET" and parts[:2] == ["v2", "models"]:
            await self._model(parts, key, headers, send)
        else:
            raise NotFound(f"{method} {path[:100]} is not a route.", hint="See /api/openapi.json.")

    async def _infer(
        self,
        ref: Ref,
        key: Key,
        headers: Headers,
        receive: Receive,
        send: Send,
        request_id: str,
    ) -> None:
        length = headers.get(b"inference-header-content-length")
        if length is not None and not (length.isdigit() and len(length) < 12):
            raise BadJson("Inference-Header-Content-Length must be a number of bytes.")
        limit = self._settings.max_json if length is None else self._settings.max_body
        body = await read_body(receive, headers, limit)
        call = Call("oip", body, -1 if length is None else int(length), "", request_id)
        reply, route = await self._gateway.infer(
            key, ref, call, stated_purpose=_purpose(headers), door="oip-rest"
        )
        extra = ((b"x-request-id", request_id.encode()), *route.headers)
        if reply.header_length < 0:
            await respond(send, reply.body, extra=extra)
        else:
            size = str(reply.header_length).encode()
            extra = (*extra, (b"inference-header-content-length", size))
            await respond(send, reply.body, kind=b"application/octet-stream", extra=extra)

    async def _predict(
        self,
        ref: Ref,
        key: Key,
        headers: Headers,
        receive: Receive,
        send: Send,
        request_id: str,
    ) -> None:
        kind = headers.get(b"content-type", b"").decode("latin-1")
        json = kind in ("", "application/json") or kind.startswith("application/json;")
        body = await read_body(
            receive,
            headers,
            self._settings.max_json if json else self._settings.max_body,
        )
        call = Call("task", body, -1, kind, request_id)
        reply, route = await self._gateway.infer(
            key, ref, call, stated_purpose=_purpose(headers), door="task"
        )
        extra = ((b"x-request-id", request_id.encode()), *route.headers)
        await respond(send, reply.body, extra=extra)

    async def _health(self, parts: list[str], send: Send) -> None:
        if parts == ["v2"]:
            await respond(send, orjson.dumps(server_metadata()))
            return
        ready = parts[-1] == "live" or self._gateway.directory.snapshot.ready
        await respond(send, b'{"live":true}' if ready else b"{}", status=200 if ready else 503)

    async def _model(self, parts: list[str], key: Key, headers: Headers, send: Send) -> None:
        ready = parts[-1] == "ready" and len(parts) > 3
        ref = _model(parts[:-1] if ready else parts)
        self._gateway.directory.purpose(key, ref.algorithm, _purpose(headers))
        try:
            route = self._gateway.directory.route(ref)
        except CityBrainError:
            if not ready:
                raise
            notice = self._gateway.directory.notice(ref)
            extra = notice.headers if notice else ()
            await respond(send, b'{"ready":false}', status=503, extra=extra)
            return
        if ready:
            await respond(send, b'{"ready":true}', extra=route.headers)
            return
        versions = {str(r.version) for r in self._gateway.directory.snapshot.routes[ref.algorithm]}
        await respond(
            send,
            orjson.dumps(
                {
                    "name": ref.algorithm,
                    "versions": sorted(versions, key=int),
                    "platform": f"citybrain_{route.manifest.runtime}",
                    "task": route.manifest.task,
                    **describe(route.signature),
                }
            ),
            extra=route.headers,
        )

    async def _index(self, key: Key, send: Send) -> None:
        directory = self._gateway.directory
        found = []
        for name, routes in sorted(directory.snapshot.routes.items()):
            try:
                directory.purpose(key, name, "" if len(key.purposes) == 1 else key.purposes[0])
            except CityBrainError:
                continue  # a department does not learn what it may not call
            found += [
                {
                    "name": name,
                    "version": str(r.version),
                    "state": "READY",
                    "reason": "",
                }
                for r in routes
            ]
        await respond(send, orjson.dumps(found))


def server_metadata() -> dict[str, object]:
    """The body of `GET /v2`."""
    return {"name": "citybrain", "version": __version__, "extensions": EXTENSIONS}


def describe(signature: Signature) -> dict[str, list[dict[str, object]]]:
    """A signature as the protocol writes it."""
    return {
        side: [{"name": s.name, "datatype": s.dtype, "shape": list(s.shape)} for s in specs]
        for side, specs in (
            ("inputs", signature.inputs),
            ("outputs", signature.outputs),
        )
    }


@lru_cache(maxsize=4096)
def _parts(path: str) -> list[str]:
    return [unquote(part) for part in path.strip("/").split("/")]


@lru_cache(maxsize=4096)
def _ref_of(path: str) -> Ref:
    """The reference in a path that ends with `/infer`."""
    return _model(_parts(path)[:-1])


def _model(parts: list[str]) -> Ref:
    """`v2/models/{name}[/versions/{version}]` as a reference."""
    if parts[:2] != ["v2", "models"] or len(parts) not in (3, 5):
        raise NotFound("This is not a route of the Open Inference Protocol.")
    ref = parse_ref(parts[2])
    if len(parts) == 5:
        if parts[3] != "versions":
            raise NotFound("This is not a route of the Open Inference Protocol.")
        ref = parse_ref(f"{ref.algorithm}@{parts[4]}")
    return ref


def _purpose(headers: Headers) -> str:
    return headers.get(b"x-purpose", b"").decode("latin-1")
