"""A server of the serving benchmark: how it is started, found ready and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple, Protocol

import psutil
from grpc_load import GrpcTarget
from load import Target
from serving_workload import Door, Workload

PEERS = Path(__file__).parent / "peers"
START_SECONDS = 180.0
STARTS = 3


class Server(Protocol):
    """One way to serve the model."""

    name: str
    says: str
    """What it is, in a line of the report."""
    counts: tuple[int, ...]
    """The numbers of connections that it is measured with; empty: all."""

    def running(self) -> AbstractContextManager[dict[str, Door]]:
        """Started and ready inside the `with`, ended behind it: where each body is sent."""

    def processes(self) -> list[psutil.Process]:
        """All processes of it that run now."""


class Setting(NamedTuple):
    """How a peer is set up."""

    workers: int = 1
    """Processes that hold the model; 0: the process that reads the requests holds it."""
    batch: int = 0
    """The largest batch that it may form of several requests; 0: it forms none."""

    def __str__(self) -> str:
        words = "model in its process" if not self.workers else f"{self.workers} worker"
        return words + "s" * (self.workers > 1) + f", batches to {self.batch}" * bool(self.batch)


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


def wait_until_answers(door: Door, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return at the first status 200."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError, HTTPException):
            if door.ask()[0] == 200:
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
    """A server that is one command, answering on one port; `settings` are tried first."""

    name = ""
    says = ""
    settings: tuple[Setting, ...] = (Setting(),)
    packages: tuple[str, ...] = ()
    """Of an environment of its own; none: it runs in ours."""
    versions: tuple[str, ...] = ()
    """Packages whose versions the report names."""

    def __init__(self, work: Path, workload: Workload, python: Path) -> None:
        self.work, self.workload, self.python = work, workload, python
        self.setting = self.settings[0]
        self.counts: tuple[int, ...] = ()
        self._process: subprocess.Popen[bytes] | None = None

    def command(self, ports: list[int]) -> list[str]:
        """The command line, for four free ports: HTTP, gRPC, and two for its own use."""
        raise NotImplementedError

    def environment(self, ports: list[int]) -> dict[str, str]:
        """What its process needs beyond ours, for the same ports."""
        return {}

    def doors(self, ports: list[int]) -> dict[str, Door]:
        """Where each body of the workload is sent."""
        if self.workload.section == "grpc":
            return {
                kind: GrpcTarget(ports[1], request.path, request.body)
                for kind, request in self.workload.requests.items()
            }
        return {
            kind: Target(ports[0], request.path, request.body, request.headers)
            for kind, request in self.workload.requests.items()
        }

    def processes(self) -> list[psutil.Process]:
        """The process that was started and everything that it started."""
        if self._process is None:
            return []
        started = psutil.Process(self._process.pid)
        return [started, *started.children(recursive=True)]

    @contextlib.contextmanager
    def running(self) -> Iterator[dict[str, Door]]:
        ports = free_ports(4)
        doors = self.doors(ports)
        try:
            self._start(doors, ports)
            yield doors
        finally:
            if self._process is not None:
                end_family(self._process)
            self._process = None

    def _start(self, doors: dict[str, Door], ports: list[int]) -> None:
        """Return when every door answers; a process that ends before is started again.

        PyTriton's second worker waits a second for the first, too short on a busy machine.
        """
        log = self.work / f"{self.name}.log"
        extra = {
            "BENCH_MODEL": str(self.workload.model),
            "BENCH_PORTS": " ".join(map(str, ports)),
            "BENCH_WORKERS": str(self.setting.workers), "BENCH_BATCH": str(self.setting.batch),
            "PYTHONPATH": os.pathsep.join([str(PEERS), *filter(None, [os.getenv("PYTHONPATH")])]),
        }  # fmt: skip
        for left in reversed(range(STARTS)):
            with log.open("ab") as output:
                self._process = subprocess.Popen(
                    self.command(ports), env=clean_environment(extra | self.environment(ports)),
                    stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                    cwd=self.work, start_new_session=True,
                )  # fmt: skip
            try:
                for door in doors.values():
                    wait_until_answers(door, self._process, log)
                return
            except RuntimeError:
                if self._process.poll() is None or not left:
                    raise
                end_family(self._process)
