"""What the two inference routes say in their path and headers, and how their answers look."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

from citybrain.core.errors import BadJson, NotFound
from citybrain.core.names import Ref, parse_ref
from citybrain.core.schemas import Key
from citybrain.core.settings import ServingSettings
from citybrain.serving.gateway.gateway import Asked
from citybrain.serving.gateway.messages import JSON, Headers, timeout_in
from citybrain.serving.wire import Call, Reply

BINARY = b"application/octet-stream"
EVENTS = b"text/event-stream"
HEADER_LENGTH = b"inference-header-content-length"


class Inference(NamedTuple):
    """A call whose body has yet to come."""

    asked: Asked
    codec: str
    header_length: int
    content_type: str
    limit: int
    """Bytes that the body may have."""
    events: bool = False
    """Whether the caller takes the answer in parts, as server-sent events."""

    def call(self, body: bytes, request_id: str) -> Call:
        """The call, now that its body is there."""
        return Call(
            self.codec, body, self.header_length, self.content_type, request_id, parts=self.events
        )


@lru_cache(maxsize=4096)
def parts_of(path: str) -> list[str]:
    """The words between the slashes of a path."""
    return [unquote(part) for part in path.strip("/").split("/")]


@lru_cache(maxsize=4096)
def inference_route(path: str) -> tuple[str, Ref] | None:
    """The codec and the reference in a path that asks for inference; None for any other path."""
    parts = parts_of(path)
    if parts[0] == "v2" and parts[-1] == "infer":
        return "oip", model_of(parts[:-1])
    if parts[:2] == ["v1", "algorithms"] and len(parts) == 4 and parts[3] == "predict":
        return "task", parse_ref(parts[2])
    return None


def model_of(parts: list[str]) -> Ref:
    """`v2/models/{name}[/versions/{version}]` as a reference."""
    if parts[:2] != ["v2", "models"] or len(parts) not in (3, 5):
        raise NotFound("This is not a route of the Open Inference Protocol.")
    ref = parse_ref(parts[2])
    if len(parts) == 5:
        if parts[3] != "versions":
            raise NotFound("This is not a route of the Open Inference Protocol.")
        ref = parse_ref(f"{ref.algorithm}@{parts[4]}")
    return ref


def opened(
    route: tuple[str, Ref], key: Key, headers: Headers, gone: Callable[[], bool] | None,
    settings: ServingSettings, source: str = "",
) -> Inference:  # fmt: skip
    """A call, from what came before its body."""
    codec, ref = route
    kind, header_length, json, events = "", -1, True, False
    if codec == "oip":
        if (length := headers.get(HEADER_LENGTH)) is not None:
            if not (length.isdigit() and len(length) < 12):
                raise BadJson("Inference-Header-Content-Length must be a number of bytes.")
            header_length, json = int(length), False
    else:
        kind = headers.get(b"content-type", b"").decode("latin-1")
        events = EVENTS in headers.get(b"accept", b"").lower()
        json = kind in ("", "application/json") or kind.startswith("application/json;")
    asked = Asked(
        key, ref, "oip-rest" if codec == "oip" else "task", purpose_of(headers),
        timeout_in(headers.get(b"x-request-timeout-ms", b"")), gone,
        headers.get(b"x-sticky-key", b"")[:200].decode("latin-1"),
        headers.get(b"traceparent", b"").decode("latin-1"),
        headers.get(b"idempotency-key", b"").decode("latin-1"), source,
    )  # fmt: skip
    limit = settings.max_json if json else settings.max_body
    return Inference(asked, codec, header_length, kind, limit, events)


def purpose_of(headers: Headers) -> str:
    """The purpose that a caller states."""
    return headers.get(b"x-purpose", b"").decode("latin-1")


def answer_headers(reply: Reply, request_id: str) -> tuple[tuple[bytes, bytes], ...]:
    """What goes before every answer's body, its length excepted; the content type comes first."""
    named = (b"x-request-id", request_id.encode())
    if reply.header_length < 0:
        return ((b"content-type", JSON), named)
    size = str(reply.header_length).encode()
    return ((b"content-type", BINARY), named, (HEADER_LENGTH, size))
