"""A retired algorithm's answers say so at every door, and end at the sunset."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import pytest
from support_door import ADMIN, Door

from citybrain.core.errors import NotReady, Retired
from citybrain.core.names import Ref
from citybrain.serving.gateway.grpc_calls import Calls
from citybrain.serving.gateway.grpc_door import Pause, _shown

PATHS = (
    ("POST", "/v2/models/flow/infer"), ("POST", "/v1/algorithms/flow/predict"),
    ("GET", "/v2/models/flow"), ("GET", "/v2/models/flow/ready"),
)  # fmt: skip


@pytest.fixture
def door(tmp_path):
    return Door(tmp_path)


def test_nothing_is_said_while_nothing_is_retired(door):
    for method, path in PATHS:
        status, headers, _ = door.ask(method, path)
        assert status == 200
        assert not {b"deprecation", b"sunset", b"link"} & headers.keys()
    door.directory.load()
    assert door.directory.route(Ref("flow")).headers == ()


@pytest.mark.parametrize("version", [0, 2])
def test_every_door_carries_the_notice(door, version):
    done = door.retire(version, replacement="other")
    for method, path in PATHS:
        status, headers, _ = door.ask(method, path)
        assert status == 200
        assert headers[b"deprecation"] == f"@{int(done.at.timestamp())}".encode()
        told = parsedate_to_datetime(headers[b"sunset"].decode())
        assert told == done.sunset.replace(microsecond=0)
        assert headers[b"sunset"].endswith(b" GMT")
        assert headers[b"link"] == b'</v2/models/other>; rel="successor-version"'


def test_another_versions_retirement_says_nothing(door):
    door.retire(1)
    assert b"sunset" not in door.ask(*PATHS[0])[1]


def test_a_version_as_the_replacement_is_linked_by_its_own_address(door):
    door.retire(2, replacement="flow@3")
    link = door.ask(*PATHS[0])[1][b"link"]
    assert link == b'</v2/models/flow/versions/3>; rel="successor-version"'


def test_an_error_carries_the_notice_for_who_may_call_and_tells_strangers_nothing(door):
    door.retire(0)
    status, headers, _ = door.ask(*PATHS[0], body=b"x" * (9 << 20))
    assert status == 413
    assert b"sunset" in headers
    for method, path in PATHS:
        status, headers, found = door.ask(method, path, key=door.stranger)
        assert (status, found["code"]) == (403, "not_granted")
        assert b"sunset" not in headers
    status, headers, _ = door.ask(*PATHS[0], key=door.stranger, body=b"x" * (9 << 20))
    assert b"sunset" not in headers


@pytest.mark.parametrize("version", [0, 2])
def test_after_the_sunset_calls_are_refused_with_410(door, version):
    door.retire(version, days=-1, replacement="other")
    for method, path in PATHS[:3]:
        status, headers, found = door.ask(method, path)
        assert (status, found["code"]) == (410, "retired")
        assert "other" in found["hint"]
        assert b"sunset" in headers
    assert door.ask(*PATHS[3])[0] == 503
    assert door.ask(*PATHS[0], key=door.stranger)[0] == 403


def test_the_sunset_comes_without_any_change_in_the_database(door):
    door.retire(2, days=1.5 / 86400)
    door.directory.load()
    assert door.directory.route(Ref("flow"))
    asyncio.run(asyncio.sleep(1.6))
    with pytest.raises(Retired):
        door.directory.route(Ref("flow"))


def test_gateways_learn_a_retirement_and_its_end_at_their_next_look(door):
    door.directory.load()
    assert door.directory.route(Ref("flow")).notice is None
    door.retire(2)
    door.directory.load()
    assert door.directory.route(Ref("flow")).notice is not None
    door.endings.undo("flow", 2, ADMIN)
    door.directory.load()
    assert door.directory.route(Ref("flow")).notice is None


def test_a_retired_algorithm_that_no_longer_runs_is_gone_not_just_away(door):
    door.deployments.saw("flow", "champion", state="starting", running={})
    door.directory.load()
    with pytest.raises(NotReady):
        door.directory.route(Ref("flow"))
    door.retire(0, days=-1)
    door.directory.load()
    with pytest.raises(Retired):
        door.directory.route(Ref("flow"))


class Context:
    """A gRPC call that ends with its trailer."""

    def __init__(self, key):
        self.metadata, self.trailer = (("authorization", f"Bearer {key}"),), ()

    def invocation_metadata(self):
        return self.metadata

    def trailing_metadata(self):
        return self.trailer

    def set_trailing_metadata(self, trailer):
        self.trailer = trailer

    def time_remaining(self):
        return None

    def peer(self):
        return "ipv4:127.0.0.1:5000"

    async def abort(self, code, details):
        raise RuntimeError(code.name)


@pytest.mark.parametrize("days", [30, -1])
def test_grpc_carries_the_notice_in_its_trailer(door, days):
    from tritonclient.grpc import service_pb2 as pb

    door.retire(0, days=days, replacement="other")
    requests = {
        "model_infer": pb.ModelInferRequest(model_name="flow"),
        "model_metadata": pb.ModelMetadataRequest(name="flow"),
        "model_ready": pb.ModelReadyRequest(name="flow"),
    }
    for method, request in requests.items():
        context = Context(door.key)

        async def go(method=method, request=request, context=context):
            handler = _shown(getattr(Calls(door.gateway()), method), Pause())
            return await handler(request.SerializeToString(), context)

        if days > 0 or method == "model_ready":
            asyncio.run(go())
        else:
            with pytest.raises(RuntimeError, match="FAILED_PRECONDITION"):
                asyncio.run(go())
            assert ("citybrain-code", "retired") in context.trailer
        told = dict(context.trailer)
        assert told["deprecation"].startswith("@")
        assert parsedate_to_datetime(told["sunset"]) < datetime.now(UTC) + timedelta(days=31)
        assert told["link"] == '</v2/models/other>; rel="successor-version"'
        assert ("x-request-id" in told) == (method == "model_infer")
