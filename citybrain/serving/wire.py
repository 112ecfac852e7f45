"""What travels between a gateway and a replica: a frame of calls, a frame of answers.

A gateway never looks into a body. It sends the bytes as they came, with the name of the codec;
the replica decodes, answers in one batch, and encodes.
"""

from __future__ import annotations

from typing import NamedTuple


class Call(NamedTuple):
    """One request's bytes."""

    codec: str
    """`oip`, `grpc`, `task` or `media`."""
    body: bytes
    header_length: int
    """Bytes of JSON before binary tensors (`Inference-Header-Content-Length`); -1: all JSON."""
    content_type: str
    request_id: str


class Reply(NamedTuple):
    """One answer's bytes, or an error (`code` set, `body` its message, `hint`)."""

    body: bytes
    header_length: int
    rows: int
    code: str
    hint: str


def error_reply(code: str, message: str, hint: str) -> Reply:
    """An error as a reply."""
    return Reply(message.encode(errors="replace"), -1, 0, code, hint)
