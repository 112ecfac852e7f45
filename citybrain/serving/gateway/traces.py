"""OpenTelemetry traces of calls: one server span a call, and below it where its time went.

    predict flow                 the door, from its look at the key to the journal's last line
    ├─ features                  read for it, where the algorithm has a feature service
    ├─ call champion             one attempt; a fallback is the next one
    │  ├─ queue                  in this gateway
    │  └─ lane                   to the replica and back
    │     ├─ wait                in the replica, for the model to be free
    │     └─ work                decoding, model, encoding of the frame
    └─ shadow challenger         a copy that nobody waited for

Spans are made after the answer has left, from times that the call carries anyway; a thread sends them. They
say who asked what and how it went, never what was in it. A call that calls others hands each of them
`Trace.parent`: their spans hang below its own.
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from citybrain import __version__
from citybrain.core.settings import TraceSettings
from citybrain.serving.gateway.snapshot import Route
from citybrain.serving.gateway.waiting import Waiting
from citybrain.serving.wire import Reply
from citybrain.storage.journal import Settled

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

LATER = 0.02
"""Seconds after which a call's spans are made: its answer has left."""
MOST_SPANS = 16_384
"""Spans that wait to be sent; more are dropped, the oldest first."""
SEND_SECONDS = 5.0
CLOSE_SECONDS = 2.0
MOST_FILE = 64 << 20
TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_random = random.SystemRandom()


class Span(NamedTuple):
    """One span, in seconds of `time.perf_counter`."""

    name: str
    id: int
    parent: int
    began: float
    ended: float
    attributes: dict[str, str | int | float]
    failed: bool = False


class Trace:
    """One traced call; its spans are collected here until it has ended."""

    def __init__(
        self, tracer: Tracer, trace_id: int, caller: int, began: float, step: str = ""
    ) -> None:
        """`step`: the step of a pipeline that the call is made for."""
        self.id = trace_id
        self._step = step
        self._tracer = tracer
        self._caller = caller
        self._root = _random.getrandbits(64) or 1
        self._began = self._tried = began
        self._spans: list[Span] = []
        # The wall clock may be set while the call runs: all of its spans use one look at it.
        self._epoch = time.time() - time.perf_counter()

    @property
    def parent(self) -> str:
        """The `traceparent` of a call that this one makes."""
        return f"00-{self.id:032x}-{self._root:016x}-01"

    def child(self, began: float, step: str) -> Trace:
        """The trace of a call that this one makes: its spans hang below this one's own."""
        return Trace(self._tracer, self.id, self._root, began, step)

    def features(self, ended: float, service: str) -> None:
        """What was read from the feature store before the first attempt."""
        self._add("features", self._root, self._began, ended, {"citybrain.features": service})
        self._tried = ended

    def attempt(
        self, waiting: Waiting, route: Route, reply: Reply, ended: float, *, shadow: bool = False
    ) -> None:
        """A deployment was asked, and answered or failed."""
        began = waiting.began if shadow else self._tried
        if not shadow:
            self._tried = ended  # a fallback is asked next
        attributes: dict[str, str | int | float] = {
            "citybrain.target": route.target, "citybrain.version": route.version,
            "citybrain.rows": reply.rows,
        }  # fmt: skip
        if reply.code:
            attributes["error.type"] = reply.code
        kind = "shadow" if shadow else "call"
        name, failed = f"{kind} {route.target}", bool(reply.code)
        call = self._add(name, self._root, began, ended, attributes, failed=failed)
        left = waiting.left if waiting.left >= began else ended  # it never left the queue
        self._add("queue", call, began, left)
        if left < ended:
            lane = self._add("lane", call, left, ended)
            if waiting.worked:
                # A frame tells durations only: the way there is taken to be as long as the way back.
                way = max(0.0, ended - left - waiting.waited - waiting.worked) / 2
                free = min(ended, left + way + waiting.waited)
                self._add("wait", lane, left + way, free)
                self._add("work", lane, free, min(ended, free + waiting.worked))
        if shadow:
            self._tracer.send_later(self)

    def end(self, settled: Settled, route: Route, reply: Reply, ended: float) -> None:
        """The call is settled; its own span is the last."""
        attributes: dict[str, str | int | float] = {
            "citybrain.request_id": settled.request_id, "citybrain.algorithm": settled.algorithm,
            "citybrain.version": settled.version, "citybrain.target": route.target,
            "citybrain.department": settled.department, "citybrain.purpose": settled.purpose,
            "citybrain.door": settled.door, "citybrain.status": settled.status,
            "citybrain.rows": settled.rows, "citybrain.frame_calls": settled.frame_calls,
        }  # fmt: skip
        if self._step:
            attributes["citybrain.step"] = self._step
        if reply.code:
            attributes["error.type"] = reply.code
        root = Span(
            f"predict {settled.algorithm}", self._root, self._caller, self._began, ended,
            attributes, failed=settled.status >= 500,
        )  # fmt: skip
        self._spans.append(root)
        self._tracer.send_later(self)

    def _add(
        self, name: str, parent: int, began: float, ended: float,
        attributes: dict[str, str | int | float] | None = None, *, failed: bool = False,
    ) -> int:  # fmt: skip
        number = _random.getrandbits(64) or 1
        self._spans.append(Span(name, number, parent, began, ended, attributes or {}, failed))
        return number

    def taken(self) -> list[tuple[Span, int, int]]:
        """The spans so far, each with its beginning and end in nanoseconds; they are not kept."""
        found, self._spans = self._spans, []
        return [(span, self._wall(span.began), self._wall(span.ended)) for span in found]

    def _wall(self, moment: float) -> int:
        return int((self._epoch + moment) * 1e9)

    def is_root(self, span: Span) -> bool:
        """Whether this is the call's own span."""
        return span.id == self._root


class Tracer:
    """Decides which calls are traced, and hands their spans to the thread that sends them."""

    def __init__(self, exporter: SpanExporter, rate: float) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._rate = rate
        self._resource = Resource.create(
            {"service.name": "citybrain", "service.version": __version__}
        )
        self._processor = BatchSpanProcessor(
            exporter, max_queue_size=MOST_SPANS, schedule_delay_millis=1000,
            max_export_batch_size=512, export_timeout_millis=SEND_SECONDS * 1e3,
        )  # fmt: skip

    @classmethod
    def of(cls, settings: TraceSettings) -> Tracer | None:
        """The tracer that the settings ask for, if they ask for one."""
        if settings.endpoint:
            return cls(_collector(settings.endpoint), settings.rate)
        if settings.file:
            from opentelemetry.sdk.trace.export import ConsoleSpanExporter

            out = SpanFile(Path(settings.file).expanduser())
            exporter = ConsoleSpanExporter(
                out=out,  # type: ignore[arg-type]
                formatter=lambda span: span.to_json(indent=None) + "\n",
            )
            return cls(exporter, settings.rate)
        return None

    def begin(self, traceparent: str, began: float) -> Trace | None:
        """The trace of a call: as its caller says (W3C Trace Context), else by the rate."""
        if traceparent and (said := TRACEPARENT.fullmatch(traceparent.strip())):
            version, trace_id, caller, flags, more = said.groups()
            known = version != "ff" and not (version == "00" and more)
            if known and int(trace_id, 16) and int(caller, 16):
                if not int(flags, 16) & 1:
                    return None
                return Trace(self, int(trace_id, 16), int(caller, 16), began)
        if self._rate and random.random() < self._rate:
            return Trace(self, _random.getrandbits(128) or 1, 0, began)
        return None

    def send_later(self, trace: Trace) -> None:
        """Make a trace's spans when the answer has left."""
        asyncio.get_running_loop().call_later(LATER, self._send, trace)

    def _send(self, trace: Trace) -> None:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
        from opentelemetry.trace.status import Status, StatusCode

        def context(span_id: int, *, remote: bool = False) -> SpanContext:
            return SpanContext(trace.id, span_id, remote, TraceFlags(TraceFlags.SAMPLED))

        for span, began, ended in trace.taken():
            root = trace.is_root(span)
            made = ReadableSpan(
                span.name, context(span.id),
                context(span.parent, remote=root) if span.parent else None,
                self._resource, span.attributes,
                kind=SpanKind.SERVER if root else SpanKind.INTERNAL,
                status=Status(StatusCode.ERROR if span.failed else StatusCode.UNSET),
                start_time=began, end_time=ended,
            )  # fmt: skip
            self._processor.on_end(made)

    def close(self) -> None:
        """Send what waits, for a moment: an absent collector does not keep the gateway."""
        thread = threading.Thread(target=self._processor.shutdown, daemon=True)
        thread.start()
        thread.join(CLOSE_SECONDS)


def _collector(endpoint: str) -> SpanExporter:
    import requests
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    session = requests.Session()
    session.trust_env = False  # the address that is set is asked, by no proxy of the environment
    if urlsplit(endpoint).path in ("", "/"):
        endpoint = f"{endpoint.rstrip('/')}/v1/traces"
    return OTLPSpanExporter(endpoint, timeout=SEND_SECONDS, session=session)


class SpanFile:
    """Where spans are written without a collector; a full file becomes the old one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[str] = []

    def write(self, line: str) -> None:
        """Keep a line for the next flush."""
        self._lines.append(line)

    def flush(self) -> None:
        """Append the lines; several gateways do so to one file."""
        lines, self._lines = self._lines, []
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(lines))
            full = file.tell() > MOST_FILE
        if full:
            self._path.replace(self._path.with_name(f"{self._path.name}.old"))
