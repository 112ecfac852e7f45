"""What may not serve is refused with the reason and the next step (N1)."""

import os
import socket
import subprocess
import sys
import time

import psutil
import pytest
from certificates import make_pair

from citybrain.core.errors import Conflict, InvalidInput
from citybrain.core.home import Home
from citybrain.core.settings import QUIET_LIBRARIES, Settings
from citybrain.platform.children import MARK
from citybrain.platform.ray_head import head_command, ray_environment
from citybrain.platform.safety import (
    MLFLOW,
    OPEN_VARIABLES,
    RAY,
    RAY_HEAD,
    door_faults,
    faults,
    readable,
    refuse_unsafe,
    running_faults,
)
from citybrain.platform.tracking.server import server_command, server_environment


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home").make()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return make_pair(tmp_path_factory.mktemp("pair"))


def doors(**said):
    return [fault.why for fault in door_faults(Settings(**said))]


def files(home):
    return [f for f in faults(Settings(home=home.root), home) if f.check == "files"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_nothing(host):
    assert doors(host=host) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "citybrain.example"])
def test_beyond_loopback_takes_tls_or_a_named_proxy(host, pair):
    (why,) = doors(host=host)
    assert "in the clear" in why
    assert doors(host=host, tls_cert=str(pair[0]), tls_key=str(pair[1])) == []
    assert doors(host=host, proxies="10.0.0.5") == []
    assert "every address" in doors(host=host, proxies="0.0.0.0/0")[0]
    assert "CITYBRAIN_PROXIES" in doors(host=host, proxies="nginx")[0]


def test_a_certificate_that_cannot_serve_is_refused(pair, tmp_path):
    def why(cert, key):
        (found,) = doors(tls_cert=str(cert), tls_key=str(key))
        return found

    other, open_ = make_pair(tmp_path, "other"), make_pair(tmp_path, "open")
    late = make_pair(tmp_path, "late", days=-1)
    os.chmod(open_[1], 0o640)
    assert "only one" in why(pair[0], "")
    assert "There is no file" in why(pair[0], tmp_path / "none.key")
    assert "no certificate and its key" in why(pair[0], other[1])
    assert "no certificate and its key" in why(other[1], other[1])
    assert "open to others" in why(*open_)
    assert "ended on" in why(*late)
    os.chdir(pair[0].parent)
    assert "absolute" in next(door_faults(Settings(tls_cert="door.crt", tls_key="door.key"))).hint


def test_a_home_that_others_can_enter_or_change_is_refused(home):
    assert files(home) == []
    for mode in (0o750, 0o701, 0o770):
        home.root.chmod(mode)
        (fault,) = files(home)
        assert (fault.hint, "open to others" in fault.why) == (f"chmod 700 {home.root}", True)
    home.root.chmod(0o700)
    secret, data = home.pepper, home.root / "mlflow" / "model.bin"
    secret.write_bytes(b"x")
    secret.chmod(0o640)
    data.write_bytes(b"x")
    data.chmod(0o646)
    assert [fault.why.split(" can ")[0] for fault in files(home)] == ["pepper", "model.bin"]
    with pytest.raises(InvalidInput, match=r"pepper can be read by others.*chmod 600"):
        refuse_unsafe(Settings(home=home.root), home)
    secret.chmod(0o600)
    data.chmod(0o644)
    assert files(home) == []
    assert readable(home) == [data], "said by doctor: only the home's own folder protects it"


def test_what_ray_opens_lies_in_a_closed_folder(tmp_path):
    for name in ("h", "a-home-with-a-name-so-long-that-sockets-would-have-no-room"):
        home = Home(tmp_path / name).make()
        assert home.ray.parent.stat().st_mode & 0o777 == 0o700
        home.ray.mkdir(mode=0o777)
        home.ray.chmod(0o777)
        (home.ray / "session").mkdir()
        (home.ray / "session").chmod(0o777)
        assert files(home) == []
        longest = (
            home.ray / "session_2026-11-28_20-27-35_965169_4194304" / "sockets" / "plasma_store"
        )
        if len(str(home.run)) > 36:
            assert home.root not in home.ray.parents
            assert len(str(longest)) < 107
            home.short.chmod(0o755)
            assert [fault.hint for fault in files(home)] == [f"chmod 700 {home.short}"]
            with pytest.raises(Conflict, match="not this user's alone"):
                home.make()
        for path in (home.ray / "session", home.ray, home.short):
            if home.root not in home.ray.parents:
                path.rmdir()


def test_a_shell_that_opens_what_we_close_is_refused(home, monkeypatch):
    for name in OPEN_VARIABLES:
        monkeypatch.setenv(name, "1")
        (fault,) = faults(Settings(home=home.root), home)
        assert (fault.check, fault.hint) == ("environment", f"unset {name}")
        monkeypatch.delenv(name)


def test_what_we_start_is_what_we_ask_for(home):
    ours = ray_environment(home) | QUIET_LIBRARIES
    assert {name: ours[name] for name in RAY} == RAY
    assert set(RAY_HEAD) <= set(head_command(6379, home.ray, 8, 1))
    server = server_environment(home)
    assert {name: server[name] for name in MLFLOW} == MLFLOW
    assert "--uds" in server_command(home)
    assert not set(OPEN_VARIABLES) & (ours | server).keys()


@pytest.fixture
def started():
    """Real processes, ended afterwards."""
    found = []

    def start(code="import time; time.sleep(60)", name="python", **environment):
        said = {MARK: "m", **QUIET_LIBRARIES, **environment}
        process = subprocess.Popen(
            [sys.executable, "-c", code, name], env=said, stdout=subprocess.PIPE, text=True
        )
        found.append(process)
        while not psutil.Process(process.pid).environ().get(MARK):
            time.sleep(0.01)
        return psutil.Process(process.pid), process

    yield start
    for process in found:
        process.kill()
        process.communicate()


def whys(*processes, doors=()):
    return [fault.why for fault in running_faults(processes, set(doors))]


def test_a_process_that_runs_open_is_found(started):
    good, _ = started(name="/v/site-packages/ray/raylet", **RAY)
    assert whys(good) == []
    tokenless, _ = started(
        name="/v/site-packages/ray/raylet", **RAY | {"RAY_AUTH_MODE": "disabled"}
    )
    assert "RAY_AUTH_MODE is 'disabled' and must be 'token'" in whys(tokenless)[0]
    wide, _ = started(name="mlflow.server.auth:create_app", **MLFLOW)
    assert "Unix socket" in whys(wide)[0]
    believing, _ = started(INTRA_COMMUNICATION_BASE64="x")
    assert "Feast would believe" in whys(believing)[0]
    ours, _ = started(name="/home/ray/.venv/bin/worker")
    assert whys(ours) == [], "a place that is called so"
    pickles, _ = started(MLFLOW_ALLOW_PICKLE_DESERIALIZATION="true")
    assert "must be 'false'" in whys(pickles)[0]


def test_a_process_that_ends_is_no_fault(started):
    process, child = started()
    child.kill()
    child.wait()
    assert whys(process) == []


def test_listeners_beyond_loopback_are_found_but_for_the_doors(started):
    code = (
        "import socket, time\n"
        "found = [socket.create_server((host, 0)) for host in ('127.0.0.1', '0.0.0.0')]\n"
        "print(found[1].getsockname()[1], flush=True)\n"
        "time.sleep(60)"
    )
    process, child = started(code)
    port = int(child.stdout.readline())
    (why,) = whys(process)
    assert f"listens on 0.0.0.0:{port}" in why
    assert whys(process, doors=[("0.0.0.0", port)]) == []
    assert whys(process, doors=[(socket.gethostname(), port)]), "another address is another door"
