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

from citybrain.core.home import Home, reserve_socket, write_private
from citybrain.core.settings import QUIET_LIBRARIES, Settings, child_environment
from citybrain.platform.children import MARK, Child, end_group, end_marked, marked
from citybrain.platform.listeners import doors_at
from citybrain.platform.logs import bound_outputs, log_to
from citybrain.platform.ray_head import (
    free_port,
    head_command,
    make_ray_secrets,
    ray_environment,
)
from citybrain.platform.reload import shown, told
from citybrain.platform.rolling import Rolling
from citybrain.platform.safety import faults, running_faults
from citybrain.platform.state import ready_file, write_state
from citybrain.platform.tracking.server import server_command, server_environment
from citybrain.platform.wiring import open_truths

log = logging.getLogger(__name__)
BACKOFF = (0.0, 0.5, 1.0, 2.0, 5.0)
CALM = 30.0
FOREIGN = ("ray", "mlflow")
OURS = ("CITYBRAIN_", "MLFLOW_", "_MLFLOW_")
"""Of these the foreign get only what they are given: no address and no credential of our stores,
and none of a developer's own MLflow settings."""
OBJECT_STORE = 256 << 20
END_SECONDS = 10.0
"""Seconds for a process to end, besides those in which a gateway answers what is under way."""


@dataclass
class Supervisor:
    """Runs in the foreground until SIGTERM or SIGINT."""

    settings: Settings
    home: Home
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    stopping: bool = False
    children: list[Child] = field(default_factory=list)

    def run(self) -> None:
        """Start everything, look after it, end everything."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        make_ray_secrets(self.home)
        self.home.mlflow_wanted.unlink(missing_ok=True)
        if self.settings.mlflow:
            self.home.mlflow_wanted.touch()
        self.home.limits.unlink(missing_ok=True)  # it is counted anew from the ledger
        for stale in self.home.run.glob("*.ready"):
            stale.unlink()
        self.children = self.plan()
        self.rolling = Rolling(self)
        self._started_at = datetime.now(UTC).isoformat()
        self._head_starts = 0
        self._checked = 0.0
        try:
            while not self.stopping:
                self._want_mlflow()
                for child in self.children:
                    self._look_after(child)
                self.rolling.step()
                self._check_safety()
                time.sleep(0.2)
        finally:
            self._end()

    def _stop(self, _: int, __: FrameType | None) -> None:
        self.stopping = True

    def plan(self) -> list[Child]:
        """Every process, as the settings want it."""
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
        ray_only = {k: v for k, v in shared.items() if k == MARK or not k.startswith("CITYBRAIN_")}
        children = [
            Child("ray", [], ray_only),
            Child("control", [*python, "citybrain.platform.control"], shared),
        ]
        for number in range(settings.gateways):
            name = f"gateway-{number + 1}"
            command = [*python, "citybrain.platform.gateway_process"]
            children.append(Child(name, command, shared | {"CITYBRAIN_GATEWAY": str(number + 1)}))
        return children

    def _want_mlflow(self) -> None:
        """Add the MLflow server once it is asked for: `up --mlflow` may come later."""
        known = any(child.name == "mlflow" for child in self.children)
        if not known and self.home.mlflow_wanted.exists():
            environment = QUIET_LIBRARIES | server_environment(self.home) | {MARK: self.mark}
            self.children.append(Child("mlflow", server_command(self.home), environment))

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
            ready_file(self.home, child.process.pid).unlink(missing_ok=True)
            child.process = None
            child.failures += 1
            child.not_before = now + BACKOFF[min(child.failures, len(BACKOFF)) - 1]
        if now >= child.not_before:
            self.start(child)

    def start(self, child: Child) -> None:
        """Start its process."""
        environment = child_environment(child.environment)
        if child.name in FOREIGN:
            environment = {
                name: value
                for name, value in environment.items()
                if name in child.environment or not name.startswith(OURS)
            }
        if child.name == "mlflow":
            reserve_socket(self.home.mlflow_socket)
        if child.name == "ray":
            port = free_port()
            cores = os.cpu_count() or 1
            cpus = self.settings.serving.ray_cpus or 4 * cores
            child.command = head_command(port, self.home.ray, cpus, OBJECT_STORE)
        path = self.home.logs / f"{child.name}.out"
        path.unlink(missing_ok=True)  # one that still writes keeps its own
        with path.open("ab") as output:
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
        self.write_state()

    def write_state(self) -> None:
        """Tell clients and `status` what runs."""
        settings = self.settings
        write_state(
            self.home,
            {
                "supervisor": os.getpid(),
                "created": psutil.Process().create_time(),
                "mark": self.mark,
                "url": f"http{'s' * settings.tls}://{settings.here}:{settings.port}",
                "grpc": f"{settings.here}:{settings.grpc_port}",
                "certificate": settings.tls_cert if settings.tls else "",
                "started_at": self._started_at,
                "processes": {c.name: c.process.pid for c in self.children if c.process},
                "settings": shown(told(settings)),
                "reload": self.rolling.answer,
                "stopping": self.stopping,
            },
        )

    def _check_safety(self) -> None:
        """Refuse to go on when something of ours listens where it must not, or is not closed."""
        if time.monotonic() - self._checked < 5.0:
            return
        self._checked = time.monotonic()
        bound_outputs(self.home.logs)
        said = self.settings
        doors = doors_at(said.host, said.port, said.grpc_port)
        for fault in running_faults(marked(self.mark), doors):
            refuse(self.home, fault.why)
            self.stopping = True

    def _end(self) -> None:
        """The gateways first, while there is somebody to answer their calls; Ray last."""
        self.write_state()  # gateways look there: nobody takes their calls over
        drain = self.settings.serving.drain + END_SECONDS
        gateways = [child for child in self.children if child.is_gateway]
        control = [child for child in self.children if child.name == "control"]
        others = [child for child in self.children if child.name in FOREIGN]
        for children, seconds in (
            ([*self.rolling.besides, *gateways], drain), (control, END_SECONDS), (others, END_SECONDS),
        ):  # fmt: skip
            for child in children:
                child.tell_to_end()
            began = time.monotonic()
            for child in children:
                late = child.end(began + seconds)
                took = time.monotonic() - began
                log.info("%s ended after %.1f s", child.name, took)
                if late:
                    log.warning("%s did not end in time", child.name)
        end_marked(self.mark)
        (self.home.run / "platform.json").unlink(missing_ok=True)


def refuse(home: Home, why: str) -> None:
    """Say why it does not serve, to the log and to who waits for it."""
    log.error("refusing to serve: %s", why)
    write_private(home.run / "refused.txt", why.encode())


def main() -> None:
    """Run the supervisor of a home in the foreground."""
    os.umask(0o077)
    settings = Settings()
    home = Home(settings.home.expanduser().resolve()).make()
    log_to(home.logs / "supervisor.log")
    if found := faults(settings, home):
        refuse(home, f"{found[0].why} {found[0].hint}")
        sys.exit(1)
    open_truths(settings)  # tables, pepper and admin key are there before anybody needs them
    Supervisor(settings, home).run()


if __name__ == "__main__":
    main()
