"""What another server says, read up to a limit: the bodies of its answers, and its reasons."""

from __future__ import annotations

import re
from typing import Any

MAX_JSON = 8 << 20
"""Bytes of JSON in an answer: a parsed value takes many times the bytes of its text."""
CHUNK = 1 << 18
MAX_REASON = 1 << 16
TRACEBACK = "Traceback (most recent call last):"
_REASON = re.compile(r"^[A-Za-z_][\w.]*: (?!Traceback).+$", re.MULTILINE)


def first_line(error: object) -> str:
    """What somebody else said, as far as it may be repeated: one line, printable, short.

    Triton's Python backend answers with its whole traceback: of that, the line with the reason.
    """
    text = str(error)[:MAX_REASON].strip()
    line = (text.splitlines() or [type(error).__name__])[0]
    if TRACEBACK in text and (reasons := _REASON.findall(text)):
        line = reasons[-1]
    return "".join(letter if letter.isprintable() else "?" for letter in line)[:150].rstrip(".")


def bounded_client(library: Any, limit: int) -> Any:
    """The HTTP client of tritonclient, reading no more than the limit."""

    class Client(library.InferenceServerClient):  # type: ignore[misc]
        def _get(self, *arguments: Any, **named: Any) -> _Answer:
            return _Answer(super()._get(*arguments, **named), MAX_JSON)

        def _post(self, *arguments: Any, **named: Any) -> _Answer:
            return _Answer(super()._post(*arguments, **named), limit)

    return Client


class _Answer:
    """An HTTP answer, read whole: the part of a response that tritonclient uses."""

    def __init__(self, response: Any, limit: int) -> None:
        self.status_code = response.status_code
        self.get = response.get
        body = bytearray()
        try:
            if response.get("content-encoding", "identity") != "identity":
                raise ValueError("it answers compressed, which nobody asked for")
            while chunk := response.read(CHUNK):
                body += chunk
                if len(body) > limit:
                    raise ValueError(f"its answer is larger than {limit} bytes")
        finally:
            response.release()  # at once: an error's traceback would hold the connection
        text = int(response.get("inference-header-content-length", len(body)))
        if text > MAX_JSON:
            raise ValueError(f"its answer holds more than {MAX_JSON >> 20} MB of JSON")
        self._left = bytes(body)

    def read(self, length: int = -1) -> bytes:
        end = len(self._left) if length < 0 else length
        found, self._left = self._left[:end], self._left[end:]
        return found
