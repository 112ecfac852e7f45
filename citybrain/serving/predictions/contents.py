"""What of a call may be kept, in one form whatever door it came through.

An input is its task tensors, an output the task's results. Digests are of what was there before anything
was masked or left out, so equal inputs have equal digests at every door.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import numpy as np
import orjson

from citybrain.core.levels import Level
from citybrain.core.tensors import Array, Tensors, datatype
from citybrain.models.task import Task
from citybrain.serving.predictions.masking import masked
from citybrain.serving.protocols import grpc, oip
from citybrain.serving.protocols import task as task_protocol
from citybrain.serving.wire import Call, Reply

MOST_KEPT = 64 << 10
"""Bytes of JSON beyond which an input or output is told by its digest alone."""
MOST_TEXT = 4096
_KINDS = (
    (b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG", "image/png"), (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"), (b"fLaC", "audio/flac"), (b"OggS", "audio/ogg"), (b"ID3", "audio/mpeg"),
)  # fmt: skip
Digest = Callable[[bytes], str]


class Described(dict[str, Any]):
    """A picture, a sound or the like, told by its size and digest: nothing in it is masked."""


class Contents(NamedTuple):
    """The four columns that tell what went in and what came out."""

    input: str | None
    input_digest: str
    output: str | None
    output_digest: str | None


def contents(call: Call, reply: Reply, task: Task, level: Level, secret: bytes) -> Contents:
    """What may be kept of this call; never raises for what a caller or a model sent."""
    private = level >= Level.SENSITIVE

    def digest(data: bytes) -> str:
        # A bare hash of a short text can be found by trying: a private one takes this home's secret.
        if private:
            return hmac.new(secret, data, hashlib.sha256).hexdigest()
        return hashlib.sha256(data).hexdigest()

    tensors = _asked(call, task)
    seen = digest(call.body if tensors is None else canonical(tensors))
    kept = None if private or tensors is None else _told_input(tensors, task)
    if reply.code:
        return Contents(kept, seen, None, None)
    results = _answered(call.codec, reply, task)
    if results is None:
        return Contents(kept, seen, None, digest(reply.body))
    raw = orjson.dumps(results, option=orjson.OPT_SORT_KEYS)
    return Contents(kept, seen, None if private else _text(_masked(results)), digest(raw))


def canonical(tensors: Tensors) -> bytes:
    """Tensors as bytes that are equal when names, datatypes, shapes and values are."""
    parts = []
    for name in sorted(tensors):
        array = tensors[name]
        parts.append(f"{name}\0{datatype(array)}\0{list(array.shape)}\0".encode())
        parts.append(oip.to_bytes(array))
    return b"".join(parts)


def _asked(call: Call, task: Task) -> Tensors | None:
    try:
        if call.codec == "oip":
            return oip.decode(call.body, call.header_length)[1]
        if call.codec == "grpc":
            return grpc.decode(call.body)[1]
        return task_protocol.decode(call.body, call.content_type, task)
    except Exception:  # bad input was answered with its reason; here its bytes' digest says enough
        return None


def _answered(codec: str, reply: Reply, task: Task) -> Any:
    """The results, one an item; the tensors where the caller asked for some of them only."""
    try:
        if codec == "task":
            results: Any = list[task.Output]  # type: ignore[name-defined]
            found = msgspec.convert(orjson.loads(reply.body)["results"], results)
            return _plain(msgspec.to_builtins(found, builtin_types=(bytes,)))
        tensors = (
            grpc.answer(reply.body) if codec == "grpc"
            else oip.answer(reply.body, reply.header_length)
        )  # fmt: skip
    except Exception:
        return None
    try:
        written = task.write(tensors)
        return _plain(msgspec.to_builtins(written, builtin_types=(bytes,)))
    except Exception:
        return {name: _values(array, media=False) for name, array in tensors.items()}


def _told_input(tensors: Tensors, task: Task) -> str | None:
    media = bool(task.media)
    return _text({n: _masked(_values(array, media=media)) for n, array in tensors.items()})


def _values(array: Array, *, media: bool) -> Any:
    """Numbers and texts as lists; pictures and sounds as what they are."""
    if array.dtype == np.object_:
        return _nested(array.tolist(), media=media)
    if (media and array.ndim > 1) or (array.dtype == np.uint8 and array.ndim > 2):
        raw = np.ascontiguousarray(array).tobytes()
        return Described(datatype=datatype(array), shape=list(array.shape), **_described(raw))
    return _plain(array.astype(np.float64).tolist() if array.dtype.kind == "V" else array.tolist())


def _nested(values: Any, *, media: bool) -> Any:
    if isinstance(values, list):
        return [_nested(value, media=media) for value in values]
    if media or b"\0" in values:
        return _described(values)
    try:
        return values.decode()
    except UnicodeDecodeError:
        return _described(values)


def _described(raw: bytes) -> Described:
    kind = next((kind for magic, kind in _KINDS if raw.startswith(magic)), "")
    if raw[:4] == b"RIFF":
        kind = {b"WAVE": "audio/wav", b"WEBP": "image/webp"}.get(raw[8:12], "")
    told = {"kind": kind} if kind else {}
    return Described(told, bytes=len(raw), sha256=hashlib.sha256(raw).hexdigest())


def _plain(value: Any) -> Any:
    """Without bytes, which are media, and with None for NaN and infinity, as JSON has it."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, bytes):
        return _described(value)
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        if len(value) > MOST_TEXT:
            return {"characters": len(value)}
        return masked(value)
    if isinstance(value, dict) and not isinstance(value, Described):
        return {key: _masked(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_masked(one) for one in value]
    return value


def _text(value: Any) -> str | None:
    raw = orjson.dumps(value)
    return raw.decode() if len(raw) <= MOST_KEPT else None
