"""The task API: typed JSON items, or uploaded files, in; typed results out."""

from __future__ import annotations

import io
import logging
from functools import cache
from typing import Any

import msgspec

from citybrain.core.errors import BadJson, BadMedia, TooLarge
from citybrain.core.tensors import Tensors
from citybrain.models.task import Task
from citybrain.serving.protocols.oip import parse

MAX_ITEMS = 4096
MAX_FILES = 64
# A line in the replica's log for each broken form would let a caller fill the disk.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


@cache
def _decoder(item: type[Any]) -> msgspec.json.Decoder[Any]:
    body = msgspec.defstruct(
        "PredictBody",
        [("inputs", list[item])],  # type: ignore[valid-type]
        forbid_unknown_fields=True,
    )
    return msgspec.json.Decoder(body)


def items(body: bytes, task: Task) -> list[Any]:
    """The items of `{"inputs": [...]}`, checked against the task's `Input`."""
    found: list[Any] = parse(_decoder(task.Input), body).inputs
    if not found:
        raise BadJson("`inputs` is empty.", hint="Send at least one item.")
    if len(found) > MAX_ITEMS:
        raise TooLarge(f"One call takes at most {MAX_ITEMS} items, not {len(found)}.")
    return found


def decode(body: bytes, content_type: str, task: Task) -> Tensors:
    """A JSON body, a multipart form of files, or one bare file, to task tensors."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind in ("", "application/json"):
        return task.read(items(body, task))
    if kind == "multipart/form-data":
        return task.read_media(_files(body, content_type))
    if task.media and kind.startswith((f"{task.media}/", "application/octet-stream")):
        return task.read_media([body])
    takes = "JSON" + (f", multipart files or {task.media}/*" if task.media else "")
    raise BadMedia(f"This algorithm does not take {kind[:80]!r}.", hint=f"It takes {takes}.")


def _files(body: bytes, content_type: str) -> list[bytes]:
    """The file parts of a form, in order."""
    from python_multipart import MultipartParser
    from python_multipart.exceptions import MultipartParseError
    from python_multipart.multipart import parse_options_header

    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not boundary or len(boundary) > 200:
        raise BadJson("The multipart form names no boundary.")
    parts: list[io.BytesIO] = []

    def begin() -> None:
        if len(parts) >= MAX_FILES:
            raise TooLarge(f"One call takes at most {MAX_FILES} files.")
        parts.append(io.BytesIO())

    def data(chunk: bytes, start: int, end: int) -> None:
        parts[-1].write(chunk[start:end])

    try:
        parser = MultipartParser(boundary, {"on_part_begin": begin, "on_part_data": data})
        parser.write(body)
        parser.finalize()
    except MultipartParseError as error:
        raise BadJson("The multipart form is broken.") from error
    if not parts:
        raise BadMedia("The form holds no file.", hint="curl -F file=@picture.jpg …")
    return [part.getvalue() for part in parts]


def encode(
    results: list[Any], algorithm: str, version: str, request_id: str,
    part: dict[str, float] | None = None,
) -> bytes:  # fmt: skip
    """`{algorithm, version, request_id, results}`, and of a part what it says of itself."""
    return msgspec.json.encode(
        {
            "algorithm": algorithm,
            "version": int(version),
            "request_id": request_id,
            **(part or {}),
            "results": results,
        }
    )
