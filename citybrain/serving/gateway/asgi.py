"""The gateway's HTTP doors as one plain ASGI callable.

Most inference takes a shorter way (`http_door`); what comes here is the rest of the data plane. What
is not data plane goes to the control process.
"""

from __future__ import annotations

import contextlib

import orjson

from citybrain.core.errors import CityBrainError, NotFound, NotSignedIn, Refused
from citybrain.core.names import parse_ref
from citybrain.core.schemas import Key
from citybrain.core.settings import ServingSettings
from citybrain.serving.gateway.answered import Answered
from citybrain.serving.gateway.descriptions import describe, index, server_metadata
from citybrain.serving.gateway.events import TooSlow, respond_events
from citybrain.serving.gateway.forward import Forwarder
from citybrain.serving.gateway.gateway import Asked, Gateway, problem_of
from citybrain.serving.gateway.inference import (
    Inference,
    answer_headers,
    inference_route,
    model_of,
    opened,
    parts_of,
    purpose_of,
)
from citybrain.serving.gateway.messages import (
    Disconnected,
    Headers,
    Receive,
    Scope,
    Send,
    bearer,
    forwarded,
    gone_from,
    hang_up,
    named,
    read_body,
    respond,
    respond_problem,
    session,
)
from citybrain.serving.gateway.routes import SERVER, action_of

CONTROLLED = ("/v1/features/", "/v1/jobs", "/v1/requests/")  # rare enough for the control process
MAX_PATH = 512


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
                send = named(send, request_id)
                headers: Headers = dict(scope["headers"])
                if path.startswith(CONTROLLED):
                    self._gateway.closing.check()
                    await self._forward(scope, receive, send)
                else:
                    await self._data_plane(scope, headers, receive, send, request_id)
            else:
                self._gateway.closing.check()
                await self._forward(scope, receive, send)
        except Disconnected:
            return
        except Exception as error:  # the one place where a door turns errors into answers
            problem = problem_of(error)
            await respond_problem(send, problem, request_id, extra=self._notice(scope, problem))

    def _notice(self, scope: Scope, error: CityBrainError) -> tuple[tuple[bytes, bytes], ...]:
        """A retired algorithm's notice beside an error, for who may call it."""
        parts = parts_of(scope["path"][:MAX_PATH])
        if isinstance(error, NotSignedIn | Refused) or len(parts) < 3:
            return ()
        headers: Headers = dict(scope["headers"])
        with contextlib.suppress(CityBrainError):
            if parts[:2] == ["v1", "algorithms"]:
                ref = parse_ref(parts[2])
            else:
                ref = model_of(parts[:-1] if parts[-1] in ("infer", "ready") else parts)
            key = self._key(scope, headers)
            self._gateway.directory.permit(key, ref.algorithm, purpose_of(headers))
            notice = self._gateway.directory.notice(ref)
            return notice.headers if notice else ()
        return ()

    async def _data_plane(
        self, scope: Scope, headers: Headers, receive: Receive, send: Send, request_id: str
    ) -> None:
        method, path = scope["method"], scope["path"]
        if len(path) > MAX_PATH:
            raise NotFound(f"{method} {path[:100]}… is not a route.")
        parts = parts_of(path)
        action = action_of(method, parts)
        if action == SERVER:
            await self._health(parts, send)
            return
        key = self._key(scope, headers)
        if not action:
            raise NotFound(f"{method} {path[:100]} is not a route.", hint="See /api/openapi.json.")
        if method == "POST" and (route := inference_route(path)):
            gone, source = gone_from(receive), self._source(scope, headers)
            inference = opened(route, key, headers, gone, self._settings, source)
            await self._infer(inference, headers, receive, send, request_id)
        elif method == "POST":
            await respond(send, orjson.dumps(index(self._gateway.directory, key)))
        else:
            await self._model(parts, key, headers, send, self._source(scope, headers))

    def _key(self, scope: Scope, headers: Headers) -> Key:
        return self._gateway.identify(
            bearer(headers), session(headers), _peer(scope), forwarded(headers), "http"
        )

    def _source(self, scope: Scope, headers: Headers) -> str:
        return self._gateway.directory.source(_peer(scope), forwarded(headers))

    async def _infer(
        self, inference: Inference, headers: Headers, receive: Receive, send: Send,
        request_id: str,
    ) -> None:  # fmt: skip
        body = await read_body(receive, headers, inference.limit)
        answered = await self._gateway.infer(inference.asked, inference.call(body, request_id))
        if inference.events:
            await self._events(inference, answered, receive, send, request_id)
            return
        (_, kind), *extra = answer_headers(answered.reply, answered.request_id or request_id)
        await respond(send, answered.reply.body, kind=kind, extra=(*extra, *answered.headers))

    async def _events(
        self, inference: Inference, answered: Answered, receive: Receive, send: Send,
        request_id: str,
    ) -> None:  # fmt: skip
        replies, slow = self._gateway.parts(answered), self._settings.slow_client
        try:
            await respond_events(
                send, replies, request_id, answered.headers, inference.asked.gone, slow
            )
        except TooSlow:
            hang_up(receive)

    async def _health(self, parts: list[str], send: Send) -> None:
        if parts == ["v2"]:
            await respond(send, orjson.dumps(server_metadata()))
            return
        stays = self._gateway.directory.snapshot.ready and not self._gateway.closing.begun
        ready = parts[-1] == "live" or stays
        await respond(send, b'{"live":true}' if ready else b"{}", status=200 if ready else 503)

    async def _model(
        self, parts: list[str], key: Key, headers: Headers, send: Send, source: str
    ) -> None:
        ready = parts[-1] == "ready" and len(parts) > 3
        ref = model_of(parts[:-1] if ready else parts)
        self._gateway.permit(Asked(key, ref, "oip-rest", purpose_of(headers), source=source))
        try:
            route = self._gateway.directory.route(ref)
        except CityBrainError:
            if not ready:
                raise
            notice = self._gateway.directory.notice(ref)
            extra = notice.headers if notice else ()
            await respond(send, b'{"ready":false}', status=503, extra=extra)
            return
        if ready and self._gateway.directory.snapshot.trouble(route):
            await respond(send, b'{"ready":false}', status=503, extra=route.headers)
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


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""
