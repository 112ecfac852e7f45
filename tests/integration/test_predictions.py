"""The prediction log and traces of a real platform: sampled, folded, looked up by who may."""

import json

import pytest
from pyarrow import dataset, parquet
from support import command, doubler, wait_for

from citybrain.core.errors import AlgorithmNotFound, NotAllowed
from citybrain.core.schemas import NewGrant, NewKey, NewSampling

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
PATH = "/v1/algorithms/level/predict"
BODY = {"inputs": [{"tensors": {"x": [1.5, 2.0, 3.0]}}]}


def wait_for_the_sampling(city, client):
    """Call until a call is kept: the gateway behind this client's connection knows the rate from then on."""
    made = set()

    def kept():
        made.add(client.call("POST", PATH, json=BODY)["request_id"])
        return made & {row.request_id for row in city.predictions("level", limit=1000)}

    wait_for(kept)


@pytest.fixture(scope="module")
def level(platform, tmp_path_factory):
    """A model of the department waterworks that runs, and clients of waterworks, harbour and parks."""
    card = {"owner": "waterworks", "licence": "MIT", "domain": "environment"}
    file = doubler(tmp_path_factory.mktemp("level") / "level.onnx")
    clients = {}
    with platform.client() as city:
        city.register(file, "level", card=card)
        assert city.deploy("level", "1").state == "running"
        for name in ("waterworks", "harbour", "parks"):
            city.add_department(name)
            role = "developer" if name == "waterworks" else "department"
            secret = city.add_key(NewKey(department=name, role=role)).secret
            clients[name] = platform.client(secret)
            city.add_grant(NewGrant(department=name, algorithm="level"))
        city.sample("level", NewSampling(rate=1.0))
        wait_for(lambda: clients["parks"].call("GET", "/v2/models/level/ready")["ready"])
        for client in (city, *clients.values()):
            wait_for_the_sampling(city, client)
        yield city, clients
        city.undeploy("level", "1")
    for client in clients.values():
        client.close()


def test_sampled_calls_are_kept_and_shown_to_who_may_see_them(level, platform, tmp_path):
    city, clients = level
    ids = [clients[name].call("POST", PATH, json=BODY)["request_id"]
           for name in ("parks", "parks", "harbour")]  # fmt: skip

    def seen(client):
        return {row.request_id for row in client.predictions("level", limit=1000)}

    wait_for(lambda: set(ids) <= seen(city))
    assert seen(clients["parks"]) & set(ids) == set(ids[:2])
    assert seen(clients["harbour"]) & set(ids) == {ids[2]}
    assert set(ids) <= seen(clients["waterworks"])
    row = next(
        row for row in clients["waterworks"].predictions("level") if row.request_id == ids[2]
    )
    assert row.input == {"x": [[1.5, 2.0, 3.0]]}
    assert row.output == [{"tensors": {"y": [3.0, 4.0, 6.0]}}]
    assert (row.department, row.version, row.target, row.status) == ("harbour", 1, "1", 200)
    assert row.latency_ms > row.work_ms > 0
    reads = [entry for entry in platform.audit() if entry.action == "predictions.read"]
    assert {"waterworks", "platform"} <= {entry.department for entry in reads}
    assert not {"parks", "harbour"} & {entry.department for entry in reads}

    out = clients["harbour"].export_predictions("level", tmp_path / "own.parquet")
    assert ids[2] in (found := parquet.read_table(out)["request_id"].to_pylist())
    assert not set(ids[:2]) & set(found)
    log = dataset.dataset(platform.home.predictions, format="parquet", partitioning="hive")
    rows = log.to_table(filter=dataset.field("algorithm") == "level").to_pylist()
    assert set(ids) <= {row["request_id"] for row in rows}
    assert not list(platform.home.work.glob("tmp*"))  # the export's own copy is gone


def test_who_owns_it_says_how_much_is_kept(level, platform):
    city, clients = level
    before = city.sampling("level")
    assert (before.rate, before.keep_days) == (1.0, 30)
    with pytest.raises(NotAllowed):  # its role: departments' callers own no algorithms
        clients["parks"].sample("level", NewSampling(rate=0.5))
    found = clients["waterworks"].sample("level", NewSampling(rate=1.0, keep_days=7))
    assert (found.rate, found.keep_days) == (1.0, 7)
    acts = [entry for entry in platform.audit() if entry.action == "predictions.set"]
    assert acts[0].detail == {"rate": 1.0, "keep_days": 7}
    with pytest.raises(AlgorithmNotFound):
        city.predictions("nothing")


def test_the_command_shows_exports_and_sets(level, platform, tmp_path):
    city, _ = level
    made = city.predict("level", BODY["inputs"])["request_id"]
    home = platform.home.root
    wait_for(lambda: made in command(home, "predictions", "level", "--json").stdout)
    shown = command(home, "predictions", "level").stdout
    assert "100.00%" in shown
    assert "3.0" in shown
    out = tmp_path / "all.parquet"
    command(home, "predictions", "level", "--since", "2026-01-01", "--out", str(out))
    assert made in parquet.read_table(out)["request_id"].to_pylist()
    kept = city.sampling("level").keep_days
    found = json.loads(command(home, "predictions", "level", "--rate", "0.25", "--json").stdout)
    assert (found["rate"], found["keep_days"]) == (0.25, kept)
    command(home, "predictions", "level", "--reset")
    assert city.sampling("level").own == NewSampling()
    wrong = command(home, "predictions", "level", "--since", "yesterday", check=False)
    assert (wrong.returncode, "invalid_input" in wrong.stderr) == (1, True)
    city.sample("level", NewSampling(rate=1.0))


def test_a_traced_call_shows_the_replicas_part(level, platform):
    _, clients = level
    headers = {"traceparent": TRACEPARENT}
    made = clients["parks"].call("POST", PATH, json=BODY, headers=headers)["request_id"]
    trace = f"0x{TRACEPARENT.split('-')[1]}"

    def spans():
        lines = (platform.home.logs / "spans.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines]
        return {s["name"]: s for s in found if s["context"]["trace_id"] == trace}

    found = wait_for(lambda: (seen := spans()) and "predict level" in seen and seen)
    assert {"call 1", "queue", "lane", "wait", "work"} <= set(found)
    assert found["predict level"]["attributes"]["citybrain.request_id"] == made
    assert found["predict level"]["parent_id"] == f"0x{TRACEPARENT.split('-')[2]}"
