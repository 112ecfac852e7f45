"""Who is refused for what they are or want is in the audit trail, whatever door they came to."""

import asyncio
import json
from datetime import timedelta

import grpc
import pytest
from support import free_ports
from support_door import ADMIN, PATH, Door, echo
from support_identity import World
from support_site import Site, ask
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as stubs

from citybrain.core.keys import key_digest, new_key
from citybrain.core.schemas import NewGrant, NewKey
from citybrain.core.schemas.grants import NewSuspension
from citybrain.core.settings import ServingSettings
from citybrain.serving.denials import Denials
from citybrain.serving.gateway.grpc_door import grpc_server
from citybrain.storage.moments import now
from citybrain.storage.records.audit_chain import rows, verify
from citybrain.storage.records.controls import Controls
from citybrain.storage.records.denials import DenialLog

TASK = "/v1/algorithms/flow/predict"


class Watched:
    """What a door's denials become."""

    def __init__(self, folder, database):
        folder.mkdir()
        self.folder, self.database = folder, database
        self.denials = Denials(folder)

    def entries(self):
        self.denials.close()
        DenialLog(self.database).load(self.folder)
        assert verify(rows(self.database)).intact
        found = [json.loads(entry.record) for entry in rows(self.database)]
        return [entry for entry in found if entry["result"] == "denied"]

    def said(self):
        return sorted(
            (e["detail"]["code"], e["object"], e["detail"]["door"], e["detail"]["calls"])
            for e in self.entries()
        )


def key_for(door, department="health", **said):
    key_id, secret = new_key("emb")
    door.people.add_key(
        NewKey(department=department, **said), key_id, key_digest(b"pepper", secret), ADMIN
    )
    return secret


def test_every_reason_at_the_http_doors_is_one_entry(tmp_path):
    door = Door(tmp_path)
    seen = Watched(tmp_path / "denials", door.database)
    several = key_for(door, purposes=["operation", "planning"])
    scoped = key_for(door, scopes=["call:lake"])
    auditor = key_for(door, role="auditor")
    inside = key_for(door, networks=["10.0.0.0/8"])
    low = key_for(door, level="public")

    def ask(key, status, path=PATH, **more):
        found = door.ask("POST", path, key, denials=seen.denials, **more)
        assert found[0] == status, found

    ask("cb_emb_nobody", 401)
    ask(door.stranger, 403)
    ask(door.stranger, 403, TASK)
    ask(door.stranger, 403, "/v2/models/made-up/infer")
    ask(door.key, 403, sent_headers=[(b"x-purpose", b"crowds")])
    ask(several, 403)
    ask(scoped, 403)
    ask(auditor, 403)
    ask(inside, 403)
    ask(low, 403)
    door.ask("GET", "/v2/models/flow", door.stranger, denials=seen.denials)
    Controls(door.database).suspend(
        NewSuspension(kind="algorithm", target="flow", reason="it counts twice"), ADMIN
    )
    ask(door.key, 403)
    ask(door.key, 404, "/v2/models/flow", body=b"")
    assert seen.said() == [
        ("bad_key", "", "http", 1), ("level_too_high", "flow", "oip-rest", 1),
        ("network_not_allowed", "", "http", 1), ("not_allowed", "flow", "oip-rest", 1),
        ("not_granted", "", "oip-rest", 1), ("not_granted", "flow", "oip-rest", 1),
        ("not_granted", "flow", "oip-rest", 3), ("out_of_scope", "flow", "oip-rest", 1),
        ("purpose_missing", "flow", "oip-rest", 1), ("suspended", "flow", "oip-rest", 1),
    ]  # fmt: skip


def test_what_is_granted_or_only_wrong_is_not_there(tmp_path):
    door = Door(tmp_path)
    seen = Watched(tmp_path / "denials", door.database)
    assert door.ask("POST", PATH, denials=seen.denials)[0] == 200
    assert door.ask("POST", "/v2/models/lake/infer", denials=seen.denials)[0] == 403
    door.people.add_grant(NewGrant(department="health", algorithm="lake"), ADMIN)
    assert door.ask("POST", "/v2/models/lake/infer", denials=seen.denials)[0] == 404
    assert door.ask("POST", "/v2/repository/index", door.stranger, denials=seen.denials)[0] == 200
    assert door.ask("GET", "/v2/nothing", denials=seen.denials)[0] == 404
    assert seen.said() == [("not_granted", "", "oip-rest", 1)]


def test_a_call_on_a_known_connection_is_refused_and_written_down(tmp_path):
    site = Site(tmp_path)
    seen = Watched(tmp_path / "denials", site.database)
    site.denials = seen.denials
    with site.open():
        good, bad = site.request(), site.request(key=site.stranger)
        with site.connect() as connection:
            for _ in range(3):  # the third goes by a head that is known
                connection.sendall(bad)
                assert b" 403 " in connection.recv(1 << 16)
        assert ask(site, good)[0][0] == 200
        assert ask(site, site.request(key="cb_emb_no"))[0][0] == 401
    (stranger, known) = sorted(seen.entries(), key=lambda entry: entry["actor"])
    assert (stranger["source"], stranger["detail"]["calls"]) == ("127.0.0.1", 1)
    assert (known["department"], known["object"], known["source"]) == (
        "tourism",
        "flow",
        "127.0.0.1",
    )
    assert known["detail"]["calls"] == 3


def test_grpc_and_its_streams(tmp_path):
    door = Door(tmp_path)
    seen = Watched(tmp_path / "denials", door.database)
    (port,) = free_ports(1)
    request = pb.ModelInferRequest(model_name="flow")

    async def code(call):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        return refused.value.code()

    async def go():
        gateway = door.gateway(echo, denials=seen.denials)
        server = grpc_server(gateway, ServingSettings(), f"127.0.0.1:{port}")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = stubs.GRPCInferenceServiceStub(channel)
            tourism = (("authorization", f"Bearer {door.stranger}"),)
            assert await code(stub.ModelInfer(request)) == grpc.StatusCode.UNAUTHENTICATED
            for call in (
                stub.ModelInfer(request, metadata=tourism),
                stub.ModelReady(pb.ModelReadyRequest(name="flow"), metadata=tourism),
                stub.ModelMetadata(pb.ModelMetadataRequest(name="flow"), metadata=tourism),
            ):
                assert await code(call) == grpc.StatusCode.PERMISSION_DENIED
            stream = stub.ModelStreamInfer(metadata=tourism)
            for _ in range(2):
                await stream.write(request)
                assert "grant" in (await stream.read()).error_message
            await stream.done_writing()
            stream = stub.ModelStreamInfer()
            with pytest.raises(grpc.aio.AioRpcError):
                await stream.read()
        await server.stop(0)

    asyncio.run(go())
    assert seen.said() == [
        ("missing_key", "", "oip-grpc", 2), ("not_granted", "flow", "oip-grpc", 5),
    ]  # fmt: skip
    assert {entry["source"] for entry in seen.entries()} == {"127.0.0.1"}


def test_the_control_process_writes_down_its_own(tmp_path):
    world = World(tmp_path / "home")
    client = world.client("10.9.8.7")

    def call(method, path, secret=""):
        headers = {"authorization": f"Bearer {secret}"} if secret else {}
        return client.request(method, path, headers=headers).status_code

    ended = world.key("tourism", expires_at=now() + timedelta(days=1))
    world.truths.people.revoke_key(ended.id, ADMIN)
    assert call("GET", "/api/v1/status") == 401
    assert call("POST", "/api/v1/departments", "cb_emb_x") == 401
    assert call("GET", "/api/v1/status", ended.secret) == 401
    assert call("GET", "/api/v1/audit", world.secret("admin")) == 403
    assert call("GET", "/api/v1/audit", world.secret("admin")) == 403
    assert call("GET", "/api/v1/status", world.secret("admin")) == 200
    assert call("GET", "/login") == 200
    world.plane.denials.own.close()
    world.plane.denials.run()
    found = [json.loads(entry.record) for entry in rows(world.truths.database)]
    denied = sorted(
        (e["detail"]["code"], e["action"], e["object"], e["source"], e["detail"]["calls"])
        for e in found if e["result"] == "denied"
    )  # fmt: skip
    assert denied == [
        ("bad_key", "platform.read", "", "10.9.8.7", 1), ("bad_key", "request", "", "10.9.8.7", 1),
        ("missing_key", "platform.read", "", "10.9.8.7", 1),
        ("not_allowed", "audit.read", "GET /audit", "10.9.8.7", 2),
    ]  # fmt: skip
    assert verify(rows(world.truths.database)).intact
