"""Real processes on free loopback ports, for tests that need a platform."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from onnx import TensorProto, helper

from citybrain.core.home import Home
from citybrain.sdk import CityBrain


def free_ports(count):
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@dataclass
class Running:
    """A platform that a test started."""

    home: Home
    url: str
    grpc: str

    @property
    def key(self):
        return self.home.admin_key.read_text().strip()

    def auditor(self):
        return self.client(self.home.auditor_key.read_text().strip())

    def audit(self, limit=200):
        with self.auditor() as city:
            return city.audit(limit)

    def client(self, key=None):
        return CityBrain(self.url, self.key if key is None else key, timeout=120)

    def state(self):
        return json.loads((self.home.run / "platform.json").read_text())

    def replicas(self):
        mark = self.state()["mark"]
        found = []
        for process in psutil.process_iter():
            try:
                name = " ".join(process.cmdline())
                if (
                    name.startswith("ray::")
                    and "replica" in name.lower()
                    and (process.environ().get("CITYBRAIN_MARK") == mark)
                ):
                    found.append(process)
            except psutil.Error:
                continue
        return found


class RemoteModels:
    """The server of `remote_models.py`, which can be stopped, started again and changed."""

    def __init__(self, host="127.0.0.1"):
        self.host = f"[{host}]" if ":" in host else host
        self.ports = free_ports(2)
        self._arguments = [*map(str, self.ports), host]
        self.start()

    @property
    def places(self):
        return [f"{self.host}:{port}" for port in self.ports]

    @property
    def hosts(self):
        return ",".join(self.places)

    def address(self, model, scheme="triton"):
        return f"{scheme}://{self.places[scheme != 'triton']}/{model}"

    def start(self):
        command = [sys.executable, "-P", str(Path(__file__).with_name("remote_models.py"))]
        self._process = subprocess.Popen([*command, *self._arguments], stdout=subprocess.PIPE)
        assert self._process.stdout.readline() == b"ready\n"

    def stop(self):
        self._process.kill()
        self._process.communicate()

    def freeze(self):
        """From now on it is there and says nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self._process.send_signal(signal.SIGCONT)

    def be(self, **models):
        httpx.post(f"http://{self.places[0]}/be", json=models, trust_env=False).raise_for_status()


def command(home, *arguments, timeout=300, check=True, **extra):
    """Run `citybrain …` as a user would."""
    environment = {**os.environ, "CITYBRAIN_HOME": str(home), **extra}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "citybrain.platform.cli.main", *arguments],
        capture_output=True, text=True, timeout=timeout, env=environment, check=False,
    )  # fmt: skip
    if check and done.returncode:
        raise AssertionError(f"citybrain {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}")
    return done


@contextmanager
def running_platform(folder, **extra):
    """A real platform in this folder, gone with everything it started at the end."""
    home = Home(Path(folder))
    http, grpc = free_ports(2)
    try:
        command(folder, "up", "--detach", "--port", str(http), "--grpc-port", str(grpc), **extra)
        yield Running(home, f"http://127.0.0.1:{http}", f"127.0.0.1:{grpc}")
    finally:
        command(folder, "down")


def install_starter(platform, recipe="crowd-level", scenario="scenic-crowd"):
    """Train, register, examine, promote and deploy a starter."""
    done = command(platform.home.root, "train", recipe, "--json")
    version = json.loads(done.stdout)["version"]
    with platform.client() as city:
        report = city.evaluate(scenario, recipe, str(version))
        assert report.passed, report.report["gate"]
        city.promote(recipe, version)
        assert city.deploy(recipe).state == "running"
        wait_for(lambda: city.call("GET", f"/v2/models/{recipe}/ready") == {"ready": True})
    return version


def doubler(path, operator="Add"):
    """An ONNX graph that adds three numbers to themselves; with `Mul` it multiplies them."""
    node = helper.make_node(operator, ["x", "x"], ["y"])
    graph = helper.make_graph(
        [node], "double", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def register_doubler(city, folder, name, operator="Add", **more):
    """It as a version; it takes seconds, where a starter takes a training and an evaluation."""
    card = {"owner": "platform", "licence": "MIT", "domain": "traffic", **more}
    return city.register(doubler(folder / "double.onnx", operator), name, card=card)


def wait_for(condition, seconds=60, pause=0.2):
    """Return the first true answer; errors count as no answer until the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if found := condition():
                return found
        except Exception:
            if time.monotonic() > deadline:
                raise
        if time.monotonic() > deadline:
            raise AssertionError(f"{condition} was not true within {seconds} s")
        time.sleep(pause)
