"""N2: another user of the machine, without any credential, reaches neither data nor control."""

import contextlib
import encodings.idna  # noqa: F401 - another user cannot read the libraries
import http.client
import json
import os
import socket
import stat
import subprocess
import sys

import psutil
import pytest

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
NOBODY = 65534
PATHS = (
    "/", "/metrics", "/api/v1/algorithms", "/api/v1/keys", "/v2", "/v2/repository/index", "/nodes", "/api/jobs/",
    "/api/version", "/api/cluster_status", "/api/v0/nodes", "/api/serve/applications/", "/api/gcs_healthz", "/logs",
    "/api/2.0/mlflow/experiments/search", "/ajax-api/2.0/mlflow/registered-models/search", "/-/routes", "/health",
)  # fmt: skip
OPEN = {"/", "/v2", "/health"}
"""The console's form, what the protocol's server says of itself, and whether it lives."""
JOIN = """
import sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, configure_logging=False)
except BaseException as error:
    print(type(error).__name__)
else:
    print("joined", ray.nodes())
"""


def as_nobody(work):
    """What `work` answers in a process of another user."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            with os.fdopen(writing, "w") as answer:
                json.dump(work(), answer)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return json.loads(said)


def ours(platform):
    """The processes of the platform, by its mark."""
    mark = platform.state()["mark"]
    for process in psutil.process_iter():
        try:
            if process.environ().get("CITYBRAIN_MARK") == mark:
                yield process
        except psutil.Error:
            continue


def listening(platform, kind):
    return sorted(
        {
            (connection.laddr if kind == "unix" else connection.laddr.port, " ".join(process.cmdline())[:60])
            for process in ours(platform)
            for connection in process.net_connections(kind)
            if connection.laddr and (kind == "unix" or connection.status == "LISTEN")
        }
    )  # fmt: skip


def asked(port, path):
    """Status and body, or nothing where what listens speaks no plain HTTP with strangers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(4000).decode("latin-1")
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


def test_n2_no_port_of_the_platform_answers_a_stranger_of_the_same_machine(platform):
    ports = listening(platform, "tcp")
    assert len(ports) > 8, "doors, Ray's services and replicas"
    answers = as_nobody(
        lambda: [[port, who, path, *asked(port, path)] for port, who in ports for path in PATHS]
    )
    door = int(platform.url.rpartition(":")[2])
    told = [
        (who, path, status, body[:200]) for port, who, path, status, body in answers
        if 200 <= status < 300 and not (port == door and path in OPEN)
    ]  # fmt: skip
    assert told == []
    bodies = " ".join(body for *_, body in answers)
    for secret in ("crowd-level", str(platform.home.root), platform.key):
        assert secret not in bodies, secret
    print(f"N2: {len(answers)} requests at {len(ports)} ports, 0 answered")


def test_n2_every_socket_of_the_home_is_closed_to_other_users(platform):
    paths = [path for path, _ in listening(platform, "unix") if path.startswith("/")]
    assert len(paths) > 3, "control process, Ray, replicas' lanes"

    def tries():
        found = []
        for path in paths:
            try:
                with socket.socket(socket.AF_UNIX) as one:
                    one.connect(path)
            except OSError as error:
                found.append([path, type(error).__name__])
            else:
                found.append([path, "reached"])
        return found

    reached = [path for path, result in as_nobody(tries) if result == "reached"]
    assert reached == []
    home = platform.home.root.stat()
    assert (home.st_uid, stat.S_IMODE(home.st_mode) & 0o077) == (os.getuid(), 0)
    print(f"N2: {len(paths)} sockets, 0 reached")


@pytest.mark.full  # Ray's client tries for minutes
def test_n2_nobody_joins_the_cluster_without_its_token(platform, tmp_path):
    address = json.loads((platform.home.run / "ray.json").read_text())["address"].partition("#")[0]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "RAY_raylet_start_wait_time_s": "5",
    }
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            [sys.executable, "-c", JOIN, address], env=environment, cwd=tmp_path, capture_output=True, text=True,
            timeout=180, check=False,
        )  # fmt: skip
        assert "joined" not in done.stdout, done.stdout
