"""Real processes on free loopback ports, for tests that need a platform."""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

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
