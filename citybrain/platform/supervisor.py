"""The supervisor: starts the Ray head, the control process and the gateways, and restarts them.

Each child is a process group of its own, so the end of one is the end of no other. Children carry
a mark in their environment; `down` ends exactly the marked processes, by process id.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import FrameType

import psutil

from citybrain.core.home import Home, write_private
from citybrain.core.settings import QUIET_LIBRARIES, Settings, child_environment
from citybrain.platform.listeners import foreign_listeners
from citybrain.platform.logs import log_to
from citybrain.platform.ray_head import (
    free_port,
    head_command,
    make_ray_secrets,
    ray_environment,
)
from citybrain.platform.state import write_state
from citybrain.platform.wiring import open_truths

log = logging.getLogger(__name__)
MARK = "CITYBRAIN_MARK"
BACKOFF = (0.0, 0.5, 1.0, 2.0, 5.0)
CALM = 30.0
OBJECT_STORE = 256 << 20


@dataclass
class Child:
    """One supervised process."""

    name: str
    command: list[str]
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    not_before: float = 0.0


@dataclass
class Supervisor:
    """Runs in the foreground until SIGTERM or SIGINT."""

    settings: Settings
    home: Home
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    stopping: bool = False

    def run(self) -> None:
        """Start everything, look after it, end everything."""
        os.umask(0o077)
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        make_ray_secrets(self.home)
        self._children = self._plan()
        self._started_at = datetime.now(UTC).isoformat()
        self._head_starts = 0
        self._checked = 0.0
        try:
            while not self.stopping:
                for child in self._children:
                    self._look_after(child)
                self._check_listeners()
                time.sleep(0.2)
        finally:
            self._end()

    def _stop(self, _: int, __: FrameType | None) -> None:
        self.stopping = True

    def _plan(self) -> list[Child]:
        settings = self.settings
        shared = ray_environment(self.home) | QUIET_LIBRARIES | {
            MARK: self.mark,
            "CITYBRAIN_HOME": str(self.home.root),
            "CITYBRAIN_PROFILE": settings.profile,
            "CITYBRAIN_HOST": settings.host,
            "CITYBRAIN_PORT": str(settings.port),
            "CITYBRAIN_GRPC_PORT": str(settings.grpc_port),
        }  # fmt: skip
        python = [sys.executable, "-P", "-m"]
        # The head and its workers get no address and no credential of any of our stores.
        ray_only = {k: v for k, v in shared.items() if not k.startswith("CITYBRAIN_H")}
        children = [
            Child("ray", [], ray_only),
            Child("control", [*python, "citybrain.platform.control"], shared),
        ]
        for number in range(settings.gateways):
            name = f"gateway-{number + 1}"
            command = [*python, "citybrain.platform.gateway_process"]
            children.append(Child(name, command, shared | {"CITYBRAIN_GATEWAY": str(number + 1)}))
        return children

    def _look_after(self, child: Child) -> None:
        now = time.monotonic()
        if child.process is not None:
            code = child.process.poll()
            if code is None:
                if child.failures and now - child.started > CALM:
                    child.failures = 0
                return
            log.warning("%s ended with %s", child.name, code)
            end_group(child.process.pid)
            child.process = None
            child.failures += 1
            child.not_before = now + BACKOFF[min(child.failures, len(BACKOFF)) - 1]
        if now >= child.not_before:
            self._start(child)

    def _start(self, child: Child) -> None:
        environment = child_environment(child.environment)
        if child.name == "ray":
            for name in [name for name in environment if name.startswith("CITYBRAIN_")]:
                if name != MARK:
                    del environment[name]
            port = free_port()
            cores = os.cpu_count() or 1
            cpus = self.settings.serving.ray_cpus or 4 * cores
            child.command = head_command(port, self.home.ray, cpus, OBJECT_STORE)
            environment["AUTOSCALER_METRIC_PORT"] = str(free_port())
            environment["DASHBOARD_METRIC_PORT"] = str(free_port())
        with (self.home.logs / f"{child.name}.out").open("wb") as output:
            child.process = subprocess.Popen(
                child.command, env=environment, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True, cwd=self.home.root,
            )  # fmt: skip
        child.started = time.monotonic()
        log.info("%s started as %d", child.name, child.process.pid)
        if child.name == "ray":
            self._head_starts += 1
            address = {"address": f"127.0.0.1:{port}#{self._head_starts}.{self.mark}"}
            write_private(self.home.run / "ray.json", json.dumps(address).encode())
        self._write_state()

    def _write_state(self) -> None:
        settings = self.settings
        write_state(
            self.home,
            {
                "supervisor": os.getpid(),
                "created": psutil.Process().create_time(),
                "mark": self.mark,
                "url": f"http://{settings.host}:{settings.port}",
                "grpc": f"{settings.host}:{settings.grpc_port}",
                "started_at": self._started_at,
                "processes": {c.name: c.process.pid for c in self._children if c.process},
            },
        )

    def _check_listeners(self) -> None:
        """Refuse to go on when something of ours listens where it must not."""
        if time.monotonic() - self._checked < 5.0:
            return
        self._checked = time.monotonic()
        doors = {(self.settings.host, self.settings.port),
                 (self.settings.host, self.settings.grpc_port)}  # fmt: skip
        for found in foreign_listeners(marked(self.mark), doors):
            log.error("refusing to serve: %s", found)
            write_private(self.home.run / "refused.txt", found.encode())
            self.stopping = True

    def _end(self) -> None:
        for child in reversed(self._children):
            if child.process is not None:
                _signal_group(child.process.pid, signal.SIGTERM)
        deadline = time.monotonic() + 10
        for child in self._children:
            if child.process is not None:
                try:
                    child.process.wait(max(0.1, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    log.warning("%s did not end in time", child.name)
                end_group(child.process.pid)
        end_marked(self.mark)
        (self.home.run / "platform.json").unlink(missing_ok=True)


def _signal_group(process_id: int, number: int) -> None:
    try:
        os.killpg(process_id, number)
    except ProcessLookupError:
        return


def end_group(process_id: int) -> None:
    """End what is left of a child's process group."""
    _signal_group(process_id, signal.SIGKILL)


def marked(mark: str) -> list[psutil.Process]:
    """Every process that carries this supervisor's mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found


def end_marked(mark: str) -> int:
    """End what still carries the mark (Ray's workers outlive their head by a moment)."""
    left = marked(mark)
    for process in left:
        try:
            process.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(left, timeout=5)
    return len(left)


def main() -> None:
    """Run the supervisor of a home in the foreground."""
    settings = Settings()
    home = Home(settings.home.expanduser().resolve()).make()
    log_to(home.logs / "supervisor.log")
    open_truths(settings)  # tables, pepper and admin key are there before anybody needs them
    Supervisor(settings, home).run()


if __name__ == "__main__":
    main()
