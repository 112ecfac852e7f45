"""Traces of calls as a collector receives them: a real OTLP/HTTP receiver on a loopback port."""

import asyncio
import gzip
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from support import free_ports, wait_for
from support_door import ADMIN, MANIFEST, Door

from citybrain.core.schemas import NewTraffic
from citybrain.core.settings import ServingSettings, TraceSettings
from citybrain.serving.gateway.gateway import Asked
from citybrain.serving.gateway.grpc_door import grpc_server
from citybrain.serving.gateway.traces import Tracer
from citybrain.serving.rollout.shadow import ShadowBook
from citybrain.serving.wire import Reply, Served, error_reply
from citybrain.storage.records.traffic import Traffics

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{CALLER}-01"
BODY = b'{"inputs": [{"secret-word": 1}]}'


class Collector:
    """Takes what exporters post, as a collector does."""

    def __init__(self):
        self.requests = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                raw = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    raw = gzip.decompress(raw)
                collector.requests.append((self.path, raw))
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def spans(self):
        found = []
        for path, raw in self.requests:
            assert path == "/v1/traces"
            for resource in ExportTraceServiceRequest.FromString(raw).resource_spans:
                names = {a.key: a.value.string_value for a in resource.resource.attributes}
                assert names["service.name"] == "citybrain"
                found += [span for scope in resource.scope_spans for span in scope.spans]
        return found


@pytest.fixture
def collector():
    found = Collector()
    yield found
    found.server.shutdown()
    found.server.server_close()


async def slow(route, calls):
    await asyncio.sleep(0.03)
    return Served([Reply(b"{}", -1, 2, "", "") for _ in calls], waited=0.005, worked=0.01)


def attributes(span):
    return {
        a.key: a.value.string_value or a.value.int_value or a.value.double_value
        for a in span.attributes
    }


def traced(door, url, traceparent=SAMPLED, send=slow, rate=0.0, book=None):
    """One call through the door of a gateway that traces; status and headers."""
    tracer = Tracer.of(TraceSettings(endpoint=url, rate=rate))
    sent = ((b"traceparent", traceparent.encode()),) if traceparent else ()
    try:
        return door.ask(
            "POST", "/v2/models/flow/infer", body=BODY, sent_headers=sent, send=send, tracer=tracer
        )[:2]
    finally:
        tracer.close()


def nested(inner, outer):
    return (
        outer.start_time_unix_nano <= inner.start_time_unix_nano
        and inner.end_time_unix_nano <= outer.end_time_unix_nano
    )


def test_one_trace_tells_where_a_calls_time_went(collector, tmp_path):
    door = Door(tmp_path)
    before = time.time_ns()
    status, headers = traced(door, collector.url)
    assert status == 200
    spans = {span.name: span for span in collector.spans()}
    assert set(spans) == {"predict flow", "call champion", "queue", "lane", "wait", "work"}
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    assert len({span.span_id for span in spans.values()}) == len(spans)
    root = spans["predict flow"]
    assert root.parent_span_id.hex() == CALLER
    assert root.kind == 2  # SERVER
    for child, parent in (("call champion", "predict flow"), ("queue", "call champion"),
                          ("lane", "call champion"), ("wait", "lane"), ("work", "lane")):  # fmt: skip
        assert spans[child].parent_span_id == spans[parent].span_id, child
        assert nested(spans[child], spans[parent]), child
    assert before < root.start_time_unix_nano < root.end_time_unix_nano < time.time_ns()
    order = [spans[name].start_time_unix_nano for name in ("queue", "lane", "wait", "work")]
    assert order == sorted(order)
    worked = spans["work"].end_time_unix_nano - spans["work"].start_time_unix_nano
    assert worked == pytest.approx(10e6, rel=0.01)
    told = attributes(root)
    assert told["citybrain.request_id"] == headers[b"x-request-id"].decode()
    expected = {
        "algorithm": "flow", "version": 2, "target": "champion", "department": "health",
        "purpose": "operation", "door": "oip-rest", "status": 200, "rows": 2,
    }  # fmt: skip
    assert {k: told[f"citybrain.{k}"] for k in expected} == expected
    sent = b"".join(raw for _, raw in collector.requests)
    assert b"secret-word" not in sent
    assert door.key.encode() not in sent


@pytest.mark.parametrize(
    "traceparent",
    ["", SAMPLED[:-1] + "0", "nonsense", SAMPLED + "-more", "ff" + SAMPLED[2:],
     f"00-{'0' * 32}-{CALLER}-01", f"00-{TRACE}-{'0' * 16}-01", SAMPLED.upper(), "é" * 50],
)  # fmt: skip
def test_what_nobody_asks_to_trace_is_not_traced(collector, tmp_path, traceparent):
    tracer = Tracer.of(TraceSettings(endpoint=collector.url, rate=0))
    assert tracer.begin(traceparent, 0.0) is None
    tracer.close()
    assert collector.requests == []


def test_without_traceparent_the_rate_decides_and_the_caller_is_none(collector, tmp_path):
    assert traced(Door(tmp_path), collector.url, traceparent="", rate=1.0)[0] == 200
    (root,) = [span for span in collector.spans() if span.name == "predict flow"]
    assert root.parent_span_id == b""
    assert root.trace_id.hex() != TRACE


def test_a_fallback_and_a_shadow_stand_beside_the_first_attempt(collector, tmp_path):
    door = Door(tmp_path)
    for target, version in (("stable", 1), ("next", 3)):
        door.deployments.want("flow", target, 1, ADMIN)
        running = {"app": f"flow.{target}", "version": version, "manifest": MANIFEST}
        door.deployments.saw("flow", target, state="running", version=version, running=running)
    plan = NewTraffic(
        split=[{"target": "champion", "percent": 100}], fallback=["stable"], shadow="next",
        shadow_percent=100,
    )  # fmt: skip
    Traffics(door.database).put("flow", plan, ADMIN)

    async def send(route, calls):
        served = await slow(route, calls)
        if route.target == "champion":
            broken = [error_reply("model_failed", "It broke.", "") for _ in calls]
            return served._replace(replies=broken)
        if route.target == "next":
            await asyncio.sleep(0.1)  # the caller has long gone
        return served

    tracer = Tracer.of(TraceSettings(endpoint=collector.url))

    async def go():
        gateway = door.gateway(send, tracer=tracer)
        gateway._stops._book = ShadowBook(tmp_path / "shadows")
        from citybrain.core.names import Ref
        from citybrain.serving.wire import Call

        key = door.directory.identify(door.key)
        call = Call("oip", BODY, -1, "", gateway.new_request_id())
        asked = Asked(key, Ref("flow"), "test", traceparent=SAMPLED)
        answered = await gateway.infer(asked, call)
        assert answered.route.target == "stable"
        await asyncio.gather(*gateway._stops._tasks)
        await asyncio.sleep(0.05)

    asyncio.run(go())
    tracer.close()
    spans = collector.spans()
    by_name = {span.name: span for span in spans}
    root = by_name["predict flow"]
    first, second, shadow = (
        by_name[f"{n}"] for n in ("call champion", "call stable", "shadow next")
    )
    assert {s.parent_span_id for s in (first, second, shadow)} == {root.span_id}
    assert {s.trace_id.hex() for s in spans} == {TRACE}
    assert first.end_time_unix_nano <= second.start_time_unix_nano
    assert shadow.end_time_unix_nano > root.end_time_unix_nano
    assert attributes(first)["error.type"] == "model_failed"
    assert (first.status.code, second.status.code, root.status.code) == (2, 0, 0)
    assert attributes(root)["citybrain.target"] == "stable"
    for call in (first, second, shadow):
        inner = [s for s in spans if s.parent_span_id == call.span_id]
        assert sorted(s.name for s in inner) == ["lane", "queue"]
        assert all(nested(s, call) for s in inner)
    assert nested(first, root)
    assert nested(second, root)


def test_an_absent_collector_costs_callers_nothing(tmp_path):
    (port,) = free_ports(1)
    door = Door(tmp_path)
    tracer = Tracer.of(TraceSettings(endpoint=f"http://127.0.0.1:{port}", rate=1.0))
    took = []

    async def go():
        from citybrain.core.names import Ref
        from citybrain.serving.wire import Call

        gateway = door.gateway(tracer=tracer)
        key = door.directory.identify(door.key)
        for _ in range(200):
            began = time.perf_counter()
            call = Call("oip", BODY, -1, "", gateway.new_request_id())
            await gateway.infer(Asked(key, Ref("flow"), "test"), call)
            took.append(time.perf_counter() - began)

    asyncio.run(go())
    began = time.perf_counter()
    tracer.close()
    assert sorted(took)[100] < 0.02
    assert time.perf_counter() - began < 4


def test_grpc_callers_send_traceparent_as_metadata(collector, tmp_path):
    import grpc
    from tritonclient.grpc import service_pb2 as pb
    from tritonclient.grpc import service_pb2_grpc as stubs

    door = Door(tmp_path)
    tracer = Tracer.of(TraceSettings(endpoint=collector.url))
    (port,) = free_ports(1)

    async def send(route, calls):
        body = pb.ModelInferResponse(model_name="flow").SerializeToString()
        return Served([Reply(body, -1, 1, "", "") for _ in calls])

    async def go():
        server = grpc_server(
            door.gateway(send, tracer=tracer), ServingSettings(), f"127.0.0.1:{port}"
        )
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            metadata = (("authorization", f"Bearer {door.key}"), ("traceparent", SAMPLED))
            request = pb.ModelInferRequest(model_name="flow")
            await stubs.GRPCInferenceServiceStub(channel).ModelInfer(request, metadata=metadata)
        await asyncio.sleep(0.1)
        await server.stop(0)

    asyncio.run(go())
    tracer.close()
    (root,) = [span for span in collector.spans() if span.name == "predict flow"]
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, CALLER)
    assert attributes(root)["citybrain.door"] == "oip-grpc"


def test_spans_go_to_a_file_where_there_is_no_collector(tmp_path):
    door, path = Door(tmp_path), tmp_path / "logs" / "spans.jsonl"
    tracer = Tracer.of(TraceSettings(file=str(path), rate=1.0))
    status, _, _ = door.ask("POST", "/v2/models/flow/infer", send=slow, tracer=tracer)
    assert status == 200
    tracer.close()
    spans = [json.loads(line) for line in wait_for(path.read_text).splitlines()]
    (root,) = [span for span in spans if span["name"] == "predict flow"]
    assert root["attributes"]["citybrain.department"] == "health"
    assert all(span["context"]["trace_id"] == root["context"]["trace_id"] for span in spans)


def test_tracing_is_off_unless_it_is_asked_for():
    assert Tracer.of(TraceSettings()) is None
