"""`citybrain up --mlflow`: developers on other machines, with the MLflow client as it is."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
from support import command, wait_for

from citybrain.core.schemas import NewGrant, NewKey

FULL = "TRUST_FULL" in os.environ
FLAVORS = ["torch"] if FULL else []
NAMES = ("remote-double", "remote-calm", *(["remote-linear"] if FULL else []))
WORKER = Path(__file__).parents[1] / "remote_developer.py"
ODD_PATHS = [
    "/mlflow/../mlflow/health", "/mlflow/%2e%2e/api/v1/status", "/mlflow//health",
    "/mlflow/%252e%252e/health", "/mlflow/static-files/..%2f..%2fetc/passwd",
    "/mlflow/api/2.0/mlflow-artifacts/artifacts/..%2f..%2fmlflow.db",
    "/mlflow/api/2.0/mlflow-artifacts/artifacts/1/..%252f..%252fauth.db",
    "/mlflow/api/2.0/mlflow-artifacts/artifacts/1%5c..%5cauth.db",
    "/mlflow/api/2.0/mlflow-artifacts/artifacts/file:%2f%2f%2fetc%2fpasswd",
    "/mlflow/get-artifact?path=..%2f..%2fmlflow.db&run_uuid=0",
    "/mlflow/health;x", "/mlflow/./health", "/mlflow/HEALTH",
]  # fmt: skip


@pytest.fixture(scope="module")
def address(platform):
    """The platform that runs already, asked for its MLflow server in addition."""
    url = f"{platform.url}/mlflow"
    before = get(f"{url}/", platform.key)
    assert before.status_code == 404
    assert before.json()["code"] == "not_found"
    assert "citybrain up --mlflow" in before.json()["hint"]
    assert "mlflow" not in platform.state()["processes"]
    done = command(platform.home.root, "up", "--mlflow", "--detach")
    assert url in done.stdout.replace("\n", "")
    with platform.client() as city:
        assert city.status().mlflow_server == url
    assert url in command(platform.home.root, "status").stdout.replace("\n", "")
    return url


@pytest.fixture(scope="module")
def keys(platform):
    found = {}
    with platform.client() as city:
        for name in ("far-away", "elsewhere"):
            city.add_department(name)
            found[name] = city.add_key(NewKey(department=name, role="developer"))
        found["caller"] = city.add_key(NewKey(department="far-away", role="department"))
        found["leaver"] = city.add_key(NewKey(department="far-away", role="developer"))
    return found


def get(url, secret="", **options):
    headers = {"authorization": f"Bearer {secret}"} if secret else {}
    return httpx.get(url, headers=headers, trust_env=False, timeout=60, **options)


@pytest.fixture(scope="module")
def logged(address, keys, tmp_path_factory):
    """What the developer's own process says it did."""
    environment = {
        **os.environ, "MLFLOW_TRACKING_URI": address, "GIT_PYTHON_REFRESH": "quiet",
        "MLFLOW_TRACKING_TOKEN": keys["far-away"].secret,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(WORKER), *FLAVORS], capture_output=True, text=True, check=False, timeout=300,
        env=environment, cwd=tmp_path_factory.mktemp("far"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_a_developer_elsewhere_logs_registers_downloads_and_it_is_served(platform, logged, keys):
    assert logged["artifacts"].startswith("mlflow-artifacts:/")
    assert logged["text"] == "hello"
    assert logged["listed"] == ["notes/hello.txt"]
    assert logged["loss"] == 0.25
    assert logged["same"]
    with platform.client() as city:
        for name in NAMES:
            version = wait_for(lambda n=name: city.version(n, "challenger"), 300, 1.0)
            assert (version.problem, version.source) == ("", "mlflow"), name
            assert city.algorithm(name).algorithm.owner == "far-away"
            acts = {e.action: e for e in platform.audit(500) if e.object == f"{name}@1"}
            assert acts["version.register"].actor == keys["far-away"].id
            assert acts["version.register"].department == "far-away"
        assert city.algorithm("remote-double").algorithm.licence == "MIT"
        assert city.version("remote-double", "dev").version == 1
        assert city.version("remote-double", "1").metrics["loss"] == 0.25
        assert city.deploy("remote-double", "1").state == "running"
        city.add_grant(NewGrant(
            department="far-away", algorithm="remote-double", purpose="operation"))  # fmt: skip
    with platform.client(keys["caller"].secret) as city:
        answer = wait_for(
            lambda: city.predict("remote-double@1", [{"tensors": {"x": [1.0, 2.0, 3.0]}}]), 20
        )
        assert answer["results"] == [{"tensors": {"y": [2.0, 4.0, 6.0]}}]
    with platform.client() as city:
        city.undeploy("remote-double", "1")


def test_only_developers_and_admins_come_in(platform, address, keys):
    health = f"{address}/health"
    assert get(health, keys["far-away"].secret).text == "OK"
    assert get(health, platform.key).text == "OK"
    for user in ("", "me"):
        answer = httpx.get(health, auth=(user, keys["far-away"].secret), trust_env=False)
        assert answer.text == "OK", "a browser shows the key as a password"
    nobody = get(health)
    assert (nobody.status_code, nobody.json()["code"]) == (401, "missing_key")
    assert nobody.headers["www-authenticate"].startswith("Basic")
    assert get(health, "cb_emb_wrong").json()["code"] == "bad_key"
    caller = get(health, keys["caller"].secret)
    assert (caller.status_code, caller.json()["code"]) == (403, "not_allowed")


def test_a_revoked_key_ends_within_a_second(platform, address, keys):
    leaver = keys["leaver"]
    assert get(f"{address}/version", leaver.secret).status_code == 200
    with platform.client() as city:
        city.revoke_key(leaver.id)
    began = time.monotonic()
    wait_for(lambda: get(f"{address}/version", leaver.secret).status_code == 401, 2, 0.05)
    assert time.monotonic() - began < 1.9


def raw(platform, path, secret):
    """The status of a path that no client would send as it is."""
    host, port = platform.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as wire:
        shown = f"Authorization: Bearer {secret}\r\n" if secret else ""
        wire.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{shown}Connection: close\r\n\r\n".encode()
        )
        answer = b""
        while part := wire.recv(1 << 16):
            answer += part
    return int(answer.split()[1]), answer


@pytest.mark.parametrize("path", ODD_PATHS)
def test_a_path_that_can_be_read_in_two_ways_leads_nowhere(platform, address, keys, path):
    status, answer = raw(platform, path, keys["far-away"].secret)
    plain = path in ("/mlflow/../mlflow/health", "/mlflow/./health")  # dots that clients take away
    assert 400 <= status < 500 or (plain and answer.endswith(b"OK")), answer
    for secret in (b"root:", b"SQLite format"):
        assert secret not in answer
    status, _ = raw(platform, path, "")
    assert status in (400, 401, 404), "without a key nothing answers"


def test_the_server_listens_on_a_private_socket_alone_and_its_death_is_mended(
    platform, address, keys
):
    first = platform.state()["processes"]["mlflow"]
    process = psutil.Process(first)
    assert not [c for c in process.net_connections("inet") if c.status == "LISTEN"]
    assert platform.home.mlflow_socket.stat().st_mode & 0o777 == 0o600
    process.send_signal(signal.SIGKILL)
    wait_for(lambda: platform.state()["processes"]["mlflow"] != first, 30)
    wait_for(lambda: get(f"{address}/health", keys["far-away"].secret).text == "OK", 90)
    wait_for(lambda: get(f"{address}/version", platform.key).status_code == 200, 10)
    found = get(
        f"{address}/api/2.0/mlflow/experiments/get-by-name", keys["far-away"].secret,
        params={"experiment_name": "remote-lab"},
    )  # fmt: skip
    assert found.json()["experiment"]["name"] == "remote-lab", "nothing was lost"
    with platform.client() as city:
        assert city.status().ready
