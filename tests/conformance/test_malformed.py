"""Nearly right bodies by the thousand over real HTTP and gRPC: refused, never a 5xx, no crash."""

import os
import random

import grpc
import psutil
import pytest

from citybrain.platform.children import marked
from conformance import malformed

pytestmark = [pytest.mark.platform, pytest.mark.ours, pytest.mark.timeout(1800)]
FULL = "TRUST_FULL" in os.environ
SEED = int(os.environ.get("MALFORMED_SEED", "1"))
BODIES, TENSORS, MESSAGES, FORMS = (10_000, 20_000, 5_000, 5_000) if FULL else (300, 600, 200, 200)
GROWTH = 48 << 20
"""Bytes that a process may grow by: arenas of its allocator, not what bodies leave behind."""


@pytest.fixture
def unharmed(platform, server):
    """Gateways and replicas are the same processes afterwards, and no larger."""

    def sizes():
        found = {}
        for process in [*marked(platform.state()["mark"]), *platform.replicas()]:
            name = " ".join(process.cmdline())
            if "gateway_process" in name or name.startswith("ray::"):
                found[process.pid] = process.memory_info().rss
        return found

    before = sizes()
    assert len(before) >= 2
    yield
    after = sizes()
    lost = [pid for pid in before if pid not in after or not psutil.pid_exists(pid)]
    assert not lost, "processes ended"
    assert {
        pid: after[pid] - before[pid] for pid in before if after[pid] - before[pid] > GROWTH
    } == {}


def asked(server, made):
    headers = {} if made.said is None else {"inference-header-content-length": made.said}
    answer = server.post(made.body, headers)
    assert answer.status_code < 500, (answer.status_code, answer.text, made)
    if made.must == "ok":
        assert answer.status_code == 200, (answer.text, made)
        length = int(answer.headers["inference-header-content-length"])
        assert answer.content[length:] == made.echo, made
    elif answer.status_code != 200:
        assert answer.json()["error"], made
        assert "Traceback" not in answer.text
    else:
        assert made.must == "either", (answer.content, made)
    return answer.status_code


@pytest.mark.parametrize(
    ("make", "count"),
    [(malformed.json_body, BODIES), (malformed.binary_body, TENSORS)],
    ids=["JSON bodies", "binary tensors"],
)
def test_no_body_is_answered_with_5xx(server, unharmed, make, count):
    """300 bodies and 600 binary tensors in `make test`; 10,000 and 20,000 in `make trust`."""
    rng = random.Random(SEED)
    statuses = [asked(server, make(rng)) for _ in range(count)]
    assert statuses.count(200) < count * 0.5, "most of them are malformed"
    assert len(set(statuses)) >= 3, "there are several ways to be wrong"


@pytest.mark.parametrize("events", [False, True], ids=["plain", "events"])
@pytest.mark.parametrize(
    ("make", "count"),
    [(malformed.item_body, BODIES), (malformed.form_body, FORMS)],
    ids=["items", "forms"],
)
def test_no_body_of_the_task_api_is_answered_with_5xx(
    server, colours, unharmed, make, count, events
):
    """300 bodies and 200 forms in `make test`; 10,000 and 5,000 in `make trust`, half as events."""
    rng = random.Random(f"{SEED} {events}")
    path = server.predict_path(colours if make is malformed.form_body else "")
    seen = set()
    for _ in range(count // 2):
        made = make(rng)
        headers = {"content-type": made.said or "application/json"}
        if events:
            headers["accept"] = "text/event-stream"
        answer = server.http.post(path, content=made.body, headers=headers)
        assert answer.status_code < 500, (answer.status_code, answer.text, made)
        assert answer.headers["x-request-id"], made
        if answer.status_code != 200:
            assert answer.json()["code"], made
        elif (
            answer.headers["content-type"] == "text/event-stream" and "event: error" in answer.text
        ):
            assert '"status":4' in answer.text, (answer.text, made)
        assert "Traceback" not in answer.text
        seen.add(answer.status_code)
    assert len(seen) >= 3, "there are several ways to be wrong"


def test_no_message_is_answered_with_an_internal_error(server, unharmed):
    """200 messages over gRPC in `make test`; 5,000 in `make trust`."""
    rng = random.Random(SEED)
    good = server.message("FP32", "BYTES", "INT8", outputs=["y_fp32", "y_bytes"], id="7")
    seen = set()
    with grpc.insecure_channel(server.grpc) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for _ in range(MESSAGES):
            body = malformed.message(rng, good.SerializeToString())
            try:
                infer(body, metadata=server.metadata, timeout=60)
                seen.add(grpc.StatusCode.OK)
            except grpc.RpcError as error:
                seen.add(error.code())
                assert error.code() in (
                    grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
                ), (error.code(), error.details(), body)  # fmt: skip
    assert grpc.StatusCode.INVALID_ARGUMENT in seen
