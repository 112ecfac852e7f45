"""The servers of the serving benchmark: how each is installed, started, found ready and ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol

import psutil
from load import Target, ask
from serving_model import request_body

PEERS = Path(__file__).parent / "peers"
START_SECONDS = 180.0


class Server(Protocol):
    """One way to serve the model."""

    name: str
    says: str
    """What it is, in a line of the report."""

    def running(self) -> AbstractContextManager[Target]:
        """Started and ready inside the `with`, ended behind it."""


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on, all different."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def clean_environment(extra: dict[str, str]) -> dict[str, str]:
    """Ours without what would steer Ray or another platform; `CITYBRAIN_SERVING__*` may stay."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("RAY_")
        and (not name.startswith("CITYBRAIN_") or name.startswith("CITYBRAIN_SERVING__"))
    }
    return ours | extra


def wait_until_answers(target: Target, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return at the first status 200."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError, HTTPException):
            if ask(target, timeout=5)[0] == 200:
                return
        time.sleep(0.1)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise RuntimeError(f"{log.stem} did not become ready:\n{tail}")


def end_family(process: subprocess.Popen[bytes]) -> None:
    """End a process and everything it started, by process id."""
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    if process.poll() is None:
        process.kill()
        process.wait()
    psutil.wait_procs(family, timeout=10)


class Peer:
    """A server that is one command, answering on one port."""

    def __init__(
        self, name: str, says: str, work: Path, model: Path, path: str = "/v2/models/mlp/infer"
    ) -> None:
        self.name, self.says = name, says
        self._work, self._model, self._path = work, model, path

    def command(self, ports: list[int]) -> list[str]:
        """The command line, for three free ports."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """What its process needs beyond ours."""
        return {}

    @contextlib.contextmanager
    def running(self) -> Iterator[Target]:
        ports = free_ports(3)
        target = Target(ports[0], self._path, request_body())
        log = self._work / f"{self.name}.log"
        extra = {
            "BENCH_MODEL": str(self._model),
            "PYTHONPATH": os.pathsep.join([str(PEERS), *filter(None, [os.getenv("PYTHONPATH")])]),
        }
        with log.open("ab") as output:
            process = subprocess.Popen(
                self.command(ports), env=clean_environment(extra | self.environment()),
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                cwd=self._work, start_new_session=True,
            )  # fmt: skip
        try:
            wait_until_answers(target, process, log)
            yield target
        finally:
            end_family(process)


class Uvicorn(Peer):
    """Plain ASGI, model in process."""

    def command(self, ports: list[int]) -> list[str]:
        return [sys.executable, "-m", "uvicorn", "uvicorn_peer:app", "--host", "127.0.0.1",
                "--port", str(ports[0]), "--loop", "uvloop", "--http", "httptools",
                "--no-access-log", "--log-level", "warning"]  # fmt: skip


class RayServe(Peer):
    """Ray Serve as it comes; Ray's folder needs a short path, for the sockets in it."""

    def command(self, ports: list[int]) -> list[str]:
        folder = self._work / "r"
        folder.mkdir(exist_ok=True)
        return [sys.executable, str(PEERS / "ray_peer.py"), str(ports[0]), str(folder)]

    def environment(self) -> dict[str, str]:
        return {"RAY_USAGE_STATS_ENABLED": "0"}


class MLServer(Peer):
    """MLServer from its own environment, with nothing switched on that costs a request time."""

    parallel_workers = 0
    python = Path()

    def command(self, ports: list[int]) -> list[str]:
        folder = self._work / "mlserver"
        folder.mkdir(exist_ok=True)
        settings: dict[str, Any] = {
            "host": "127.0.0.1", "http_port": ports[0], "grpc_port": ports[1],
            "metrics_port": ports[2], "parallel_workers": self.parallel_workers,
            "debug": False, "gzip_enabled": False, "metrics_endpoint": None,
        }  # fmt: skip
        (folder / "settings.json").write_text(json.dumps(settings))
        model = {"name": "mlp", "implementation": "mlserver_peer.OnnxMlp"}
        (folder / "model-settings.json").write_text(json.dumps(model))
        return [str(self.python.with_name("mlserver")), "start", str(folder)]


class BentoML(Peer):
    """BentoML from its own environment, one worker."""

    python = Path()

    def command(self, ports: list[int]) -> list[str]:
        return [str(self.python.with_name("bentoml")), "serve", "bentoml_peer:Mlp", "--host",
                "127.0.0.1", "--port", str(ports[0]), "--working-dir", str(PEERS)]  # fmt: skip

    def environment(self) -> dict[str, str]:
        return {"BENTOML_HOME": str(self._work / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}


class CityBrain:
    """A whole platform in a temporary home: department key, grant, journal, ledger, one replica."""

    name = "citybrain"
    says = "citybrain up --detach, key and grant checked, every call in the ledger, one replica"

    def __init__(self, work: Path, package: Path) -> None:
        self._home = work / "home"
        self._package = package
        self._key = ""
        self._http, self._grpc = free_ports(2)
        self.asked = 0
        """Answers 200 that this class asked for itself; the ledger holds them too."""

    def cli(self, *arguments: str) -> str:
        """Run a command of the platform's command line; its output."""
        found = subprocess.run(
            [sys.executable, "-P", "-m", "citybrain.platform.cli.main", *arguments],
            env=clean_environment({"CITYBRAIN_HOME": str(self._home), "NO_COLOR": "1"}),
            capture_output=True, text=True, timeout=START_SECONDS, stdin=subprocess.DEVNULL,
            check=False,
        )  # fmt: skip
        if found.returncode:
            raise RuntimeError(f"citybrain {' '.join(arguments)}: {found.stdout}{found.stderr}")
        return found.stdout

    @contextlib.contextmanager
    def running(self) -> Iterator[Target]:
        try:
            self._up()
            if not self._key:
                self._install()
            target = Target(
                self._http, "/v2/models/bench-mlp/infer", request_body(),
                {"authorization": f"Bearer {self._key}"},
            )  # fmt: skip
            deadline = time.monotonic() + START_SECONDS
            while ask(target)[0] != 200:  # the gateway learns of key and route within a second
                if time.monotonic() > deadline:
                    raise RuntimeError(f"citybrain does not answer: {ask(target)[1]!r}")
                time.sleep(0.1)
            self.asked += 1
            yield target
        finally:
            self.cli("down")

    def _up(self) -> None:
        command = ("up", "--detach", "--port", str(self._http), "--grpc-port", str(self._grpc))
        try:
            self.cli(*command)
        except RuntimeError:  # a busy machine may need longer than `up` waits; it may ask again
            self.cli(*command)

    def _install(self) -> None:
        self.cli("register", str(self._package))
        self.cli("deploy", "bench-mlp@1")
        self.cli("departments", "add", "bench")
        self.cli("grants", "give", "bench", "bench-mlp", "--purpose", "operation")
        issued = json.loads(self.cli("keys", "issue", "bench", "--json"))
        self._key = issued["secret"]

    def served(self, patience: float = 120.0) -> tuple[int, int]:
        """SERVED rows and other rows of the ledger, once no journal holds an unread line.

        The platform runs: its loader reads the journals; two equal looks a second apart, with
        every journal read to its end, mean that it is done.
        """
        deadline = time.monotonic() + patience
        before = (-1, -1)
        while True:
            with contextlib.closing(
                sqlite3.connect(f"file:{self._home / 'platform.db'}?mode=ro", uri=True)
            ) as database:
                rows = dict(database.execute("SELECT state, count(*) FROM requests GROUP BY state"))
                read = dict(database.execute("SELECT file, offset FROM journals"))
            now = (rows.pop("SERVED", 0), sum(rows.values()))
            sizes = {p.name: p.stat().st_size for p in (self._home / "journal").glob("*.journal")}
            if now == before and all(read.get(name, 0) == size for name, size in sizes.items()):
                return now
            if time.monotonic() > deadline:
                raise RuntimeError("the ledger did not come to rest")
            before = now
            time.sleep(1.0)
