"""The one way to the MLflow server: `/mlflow/…`, for keys of developers and admins.

Every request shows a key, whatever it asks for. Its path is read once and written anew, its route
must be one of those that are open, what it writes must keep the rules, and it goes on as the MLflow
user of the key's department. Files are called `mlflow-artifacts:` outside; where they lie inside is
nobody's business.
"""

from __future__ import annotations

import base64
import binascii
import shutil
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import orjson
from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.types import Message, Receive, Scope, Send

from citybrain.core.errors import (
    BadJson,
    CityBrainError,
    InvalidInput,
    NotAllowed,
    NotFound,
    NotReady,
    TooLarge,
    Unavailable,
)
from citybrain.core.schemas import Actor, Key
from citybrain.platform.api.access import check_place, key_of, living_key, note_denial
from citybrain.platform.policy import check
from citybrain.platform.tracking.routes import Route, check_path, find_route
from citybrain.platform.tracking.rules import Rules
from citybrain.platform.tracking.server import HOST, PREFIX, artifacts_address
from citybrain.platform.tracking.users import Users
from citybrain.platform.wiring import ControlPlane
from citybrain.serving.gateway.forward import Forwarder
from citybrain.serving.gateway.gateway import problem_of
from citybrain.serving.gateway.messages import PROBLEM, Disconnected, read_body, respond
from citybrain.serving.problems import problem, status_of

MAX_JSON = 1 << 20
MAX_ARTIFACT = 2 << 30
READ, WRITE = "mlflow.read", "mlflow.write"
SPARE = 2 << 30
"""Bytes of the disk that uploads leave to the platform."""
ASKED = {
    b"accept", b"content-type", b"content-length", b"transfer-encoding", b"range", b"if-range",
    b"user-agent",
}  # fmt: skip
ANSWERED = {
    b"content-type", b"content-length", b"content-disposition", b"content-range", b"accept-ranges",
    b"cache-control", b"etag", b"last-modified",
}  # fmt: skip
POLICIES = {
    "page": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' blob: data:; font-src 'self' data:; connect-src 'self'; media-src blob:; "
    "worker-src 'self' blob:; manifest-src 'self'; frame-src blob:; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "artifact": "default-src 'none'; sandbox",  # a stranger's file is no page of this site
}
CODES = {
    401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "RESOURCE_DOES_NOT_EXIST",
    409: "RESOURCE_CONFLICT", 503: "TEMPORARILY_UNAVAILABLE",
}  # fmt: skip


class Door:
    """An ASGI callable: checks a request, sends it on, and gives the answer back."""

    actions = (READ, WRITE)

    def __init__(self, plane: ControlPlane) -> None:
        home = plane.truths.home
        self._plane = plane
        self._users = Users(home)
        self._rules = Rules(plane, self._users)
        self._forward = Forwarder(home.mlflow_socket, "MLflow")
        self._inside = f"{artifacts_address(home)}/".encode()

    async def close(self) -> None:
        """Close the connections to MLflow."""
        await self._forward.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        answer = _Answer(send, self._inside)
        try:
            await self._serve(scope, receive, answer)
        except Disconnected:
            return
        except Exception as error:  # the one place where this door turns errors into answers
            if answer.status == 401:
                self._users.forget()
            if answer.started:
                raise
            note_denial(Request(scope), error)
            await _refuse(send, problem_of(error))

    async def _serve(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        request = Request(scope)
        key = await run_in_threadpool(self._key, request)
        check(key, READ)
        if not self._plane.truths.home.mlflow_wanted.exists():
            raise NotFound(
                "This platform does not serve MLflow to other machines.",
                hint="Who runs it turns that on: citybrain up --mlflow",
            )
        path = check_path(scope["path"].removeprefix(PREFIX))
        if not path:  # pages name their parts from here
            await answer.redirect(f"{PREFIX}/")
            return
        method = scope["method"]
        answer.route = route = find_route(method, path)
        if route.kind == "write" or (route.kind == "artifact" and method == "PUT"):
            check(key, WRITE)
        actor = Actor.of(key)
        headers = [(k, v) for k, v in scope["headers"] if k in ASKED]
        if method not in ("GET", "HEAD"):
            _check_from_here(request)
            if scope["query_string"]:
                raise InvalidInput("This call is written in its body, not in its address.")
            if route.kind == "artifact":
                receive = self._bounded(receive, request)
            else:
                body = await self._checked(route, receive, headers, actor)
                headers = [*((k, v) for k, v in headers if k != b"content-length"),
                           (b"content-length", str(len(body)).encode())]  # fmt: skip
                receive = _whole(body)
        query = [(name, check_path(value) if "path" in name else value)
                 for name, value in parse_qsl(scope["query_string"].decode("latin-1"), True)]  # fmt: skip
        headers += [
            (b"host", HOST.encode()), (b"accept-encoding", b"identity"),
            (b"authorization", await run_in_threadpool(self._users.credentials, actor)),
        ]  # fmt: skip
        onward = {
            "method": method, "raw_path": quote(path).encode(), "headers": headers,
            "query_string": urlencode(query).encode(),
        }  # fmt: skip
        await self._forward(onward, receive, answer)

    def _key(self, request: Request) -> Key:
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            key = request.state.holder = living_key(self._plane, _password(shown))
            check_place(request, key)
            return key
        return key_of(request)

    async def _checked(
        self, route: Route, receive: Receive, headers: list[tuple[bytes, bytes]], actor: Actor
    ) -> bytes:
        """The body of a call, read once and written anew, so that MLflow reads what we read."""
        given = dict(headers)
        if not given.get(b"content-type", b"").startswith(b"application/json"):
            raise InvalidInput("This call takes JSON.", hint="Content-Type: application/json")
        try:
            body = orjson.loads(await read_body(receive, given, MAX_JSON) or b"{}")
        except orjson.JSONDecodeError as error:
            raise BadJson(f"The body is not JSON: {str(error)[:200]}.") from error
        if not isinstance(body, dict):
            raise BadJson("The body is not a JSON object.")
        if route.kind == "write":
            body = await run_in_threadpool(self._rules.check, route.name, body, actor)
        return orjson.dumps(body)

    def _bounded(self, receive: Receive, request: Request) -> Receive:
        """The body of an upload; TooLarge as soon as it is known to be."""
        length = request.headers.get("content-length", "0")
        expected = int(length) if length.isdigit() else 0
        if shutil.disk_usage(self._plane.truths.home.root).free < SPARE + expected:
            raise Unavailable(
                "The platform's disk has no room for this file.", hint="Tell who runs the platform."
            )
        size = 0

        async def bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if max(size, expected) > MAX_ARTIFACT:
                raise TooLarge(f"An artifact has at most {MAX_ARTIFACT} bytes.")
            return message

        return bounded


class _Answer:
    """Gives MLflow's answer back: few of its headers, ours beside them, addresses as seen outside."""

    def __init__(self, send: Send, inside: bytes) -> None:
        self._send = send
        self._inside = inside
        self._kept: bytes | None = None
        self.route: Route | None = None
        self.started = False
        self.status = 0

    async def redirect(self, path: str) -> None:
        """Elsewhere on this site."""
        self.started = True
        await respond(self._send, b"", status=307, extra=((b"location", path.encode()),))

    async def __call__(self, message: Any) -> None:
        """ASGI send."""
        if message["type"] == "http.response.start":
            await self._start(message)
        elif self._kept is None:
            await self._send(message)
        else:  # an address may lie across two parts: keep back what could be its beginning
            found = (self._kept + message["body"]).replace(self._inside, b"mlflow-artifacts:/")
            end = len(found) - len(self._inside) + 1 if message.get("more_body") else len(found)
            self._kept = found[max(0, end) :]
            await self._send({**message, "body": found[: max(0, end)]})

    async def _start(self, message: Any) -> None:
        self.status = message["status"]
        given = {name.lower(): value for name, value in message["headers"]}
        kind = given.get(b"content-type", b"")
        if self.status == 401:
            raise NotReady("MLflow has forgotten this department.", hint="Repeat the call.")
        if self.status == 403 and not kind.startswith(b"application/json"):
            raise NotAllowed(
                "MLflow refuses this: it belongs to another department, or to the platform.",
                hint="Work in an experiment and a model of your own: mlflow.set_experiment('NAME')",
            )
        headers = [(name, value) for name, value in given.items() if name in ANSWERED]
        assert self.route is not None
        if self.route.kind in ("read", "write") and kind.startswith(b"application/json"):
            self._kept = b""
            headers = [(name, value) for name, value in headers if name != b"content-length"]
        policy = POLICIES.get(self.route.kind, "default-src 'none'")
        headers += [
            (b"content-security-policy", policy.encode()), (b"x-frame-options", b"DENY"),
            (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin"),
            (b"cross-origin-opener-policy", b"same-origin"),
        ]  # fmt: skip
        self.started = True
        await self._send({**message, "headers": headers})


def _check_from_here(request: Request) -> None:
    """Browsers send remembered passwords along with what other sites' pages ask for."""
    site = request.headers.get("sec-fetch-site", "none")
    origin = request.headers.get("origin", "")
    foreign = origin and urlsplit(origin).netloc != request.headers.get("host", "")
    if foreign or site not in ("none", "same-origin"):
        raise NotAllowed("This call was not sent from the platform's own page.")


def _password(shown: str) -> str:
    try:
        return base64.b64decode(shown, validate=True).decode().partition(":")[2].strip()
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _whole(body: bytes) -> Callable[[], Awaitable[Message]]:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def _refuse(send: Send, error: CityBrainError) -> None:
    """A problem that MLflow's client can read too."""
    status = status_of(error)
    code = CODES.get(status, "INVALID_PARAMETER_VALUE" if status < 500 else "INTERNAL_ERROR")
    body = {**problem(error), "error_code": code, "message": str(error)}
    extra = [(b"www-authenticate", b'Basic realm="citybrain"')] if status == 401 else []
    if status == 503:
        extra.append((b"retry-after", b"1"))
    await respond(send, orjson.dumps(body), status=status, kind=PROBLEM, extra=tuple(extra))
