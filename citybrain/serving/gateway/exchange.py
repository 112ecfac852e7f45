"""One inference call on a connection, from its head to the bytes of its answer."""

from __future__ import annotations

import logging
from typing import Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from citybrain.core.errors import CityBrainError, error_from
from citybrain.serving.gateway.answered import Answered
from citybrain.serving.gateway.inference import Inference, answer_headers
from citybrain.serving.gateway.messages import PROBLEM, problem_headers
from citybrain.serving.gateway.snapshot import Route
from citybrain.serving.gateway.waiting import Waiting
from citybrain.serving.problems import problem_body, status_of
from citybrain.serving.wire import Reply

log = logging.getLogger(__name__)

Pairs = tuple[tuple[bytes, bytes], ...]
PLAIN = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
    b"x-request-id: %s\r\nx-data-level: %s\r\nserver-timing: %s\r\n%s\r\n"
)
"""The head of nearly every answer."""
LINE = b"%s: %s\r\n"


class Connection(Protocol):
    """Where an answer goes."""

    def write_answer(self, exchange: Exchange, head: bytes, body: bytes) -> None:
        """Write it, and let the next request come."""

    def notice(self, inference: Inference, error: CityBrainError) -> Pairs:
        """What the caller should know about the algorithm, beside an error."""


class _NoEvent:
    """What uvicorn wakes a waiting application with; nobody waits here."""

    def set(self) -> None:
        """Do nothing."""


class Exchange:
    """A call and its answer; to uvicorn a cycle of request and response like its own."""

    __slots__ = (
        "body", "connection", "disconnected", "inference", "keep_alive", "length", "message_event",
        "request_id", "response_complete", "started",
    )  # fmt: skip

    message_event: _NoEvent

    def __init__(
        self, connection: Connection, inference: Inference, length: int, *, keep_alive: bool
    ) -> None:
        self.connection = connection
        self.inference = inference
        self.length = length
        """Bytes that the body has."""
        self.keep_alive = keep_alive
        self.body: list[bytes] = []
        self.request_id = ""
        self.started: tuple[Waiting, Route] | None = None
        self.disconnected = False
        self.response_complete = False
        self.message_event = _NO_EVENT

    def done(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.disconnected or self.response_complete

    def set_result(self, reply: Reply, /) -> None:
        """Write the answer."""
        assert self.started is not None
        waiting, route = self.started
        try:
            if reply.code:
                self.fail(error_from(reply.code, reply.body.decode(), reply.hint))
            elif reply.header_length < 0 and self.keep_alive:
                more = b"".join([LINE % pair for pair in (*waiting.headers, *route.headers)])
                body, timing = reply.body, waiting.timing()
                head = PLAIN % (
                    len(body), self.request_id.encode(), waiting.level.encode(), timing, more,
                )  # fmt: skip
                self.connection.write_answer(self, head, body)
            else:
                self.succeed(
                    Answered(
                        reply, route, waiting.timing(), "", waiting.headers, level=waiting.level
                    )
                )
        except Exception:  # one caller's connection must not cost the others of its frame
            log.exception("an answer could not be written")

    def succeed(self, answered: Answered) -> None:
        """Answer with what the model said."""
        reply = answered.reply
        self._write(
            200,
            (*answer_headers(reply, answered.request_id or self.request_id), *answered.headers),
            reply.body,
        )

    def fail(self, error: CityBrainError) -> None:
        """Answer with a problem."""
        notice = self.connection.notice(self.inference, error)
        named = (b"x-request-id", self.request_id.encode())
        headers = ((b"content-type", PROBLEM), named, *notice, *problem_headers(error))
        self._write(status_of(error), headers, problem_body(error, self.request_id))

    def _write(self, status: int, headers: Pairs, body: bytes) -> None:
        lines = [LINE % header for header in headers]
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        head = b"%scontent-length: %d\r\n%s\r\n" % (STATUS_LINE[status], len(body), b"".join(lines))
        self.connection.write_answer(self, head, body)


_NO_EVENT = _NoEvent()
