"""The platform in the serving benchmark: a home of its own, a department, its key and grant."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from grpc_load import GrpcTarget
from load import Target
from serving_servers import START_SECONDS, clean_environment, free_ports
from serving_workload import Door, Workload

from citybrain.core.home import Home
from citybrain.platform.ray_head import ray_environment


class CityBrain:
    """A whole platform in a temporary home: department key, grant, limit, journal, ledger."""

    name = "citybrain"

    def __init__(self, work: Path, workload: Workload, replicas: int) -> None:
        self.says = (
            "citybrain up --detach, key, grant and a limit checked, every call in the ledger, "
        )
        self.says += f"{replicas} replica" + "s" * (replicas > 1)
        self.counts: tuple[int, ...] = ()
        self._home = work / "home"
        self._workload = workload
        self._replicas = replicas
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

    def doors(self) -> dict[str, Door]:
        """Where each body is sent, with the key."""
        key = {"authorization": f"Bearer {self._key}"}
        doors: dict[str, Door] = {}
        for kind, request in self._workload.requests.items():
            name = self._workload.packages[kind].name
            if self._workload.section == "grpc":
                doors[kind] = GrpcTarget(self._grpc, name, request.body, key)
            else:
                path = request.path.replace("/mlp/", f"/{name}/")
                doors[kind] = Target(self._http, path, request.body, request.headers | key)
        return doors

    @contextlib.contextmanager
    def running(self) -> Iterator[dict[str, Door]]:
        try:
            self._up()
            if not self._key:
                self._install()
            doors = self.doors()
            deadline = time.monotonic() + START_SECONDS
            for door in doors.values():
                while door.ask()[0] != 200:  # the gateway learns of key and route within a second
                    if time.monotonic() > deadline:
                        raise RuntimeError(f"citybrain does not answer: {door.ask()[1]!r}")
                    time.sleep(0.1)
                self.asked += 1
            yield doors
        finally:
            self.cli("down")

    def _up(self) -> None:
        command = ("up", "--detach", "--port", str(self._http), "--grpc-port", str(self._grpc))
        try:
            self.cli(*command)
        except RuntimeError:  # a busy machine may need longer than `up` waits; it may ask again
            self.cli(*command)

    def _install(self) -> None:
        self.cli("departments", "add", "bench")
        for package in dict.fromkeys(self._workload.packages.values()):
            self.cli("register", str(package))
            self.cli("deploy", f"{package.name}@1", "--replicas", str(self._replicas))
            self.cli("grants", "give", "bench", package.name, "--purpose", "operation")
        self.cli("quotas", "set", "bench", "1000000000")
        issued = json.loads(self.cli("keys", "issue", "bench", "--json"))
        self._key = issued["secret"]

    def processes(self) -> list[psutil.Process]:
        """All that carries the mark of this platform's supervisor."""
        mark = json.loads((self._home / "run" / "platform.json").read_text())["mark"]
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get("CITYBRAIN_MARK") == mark:
                    found.append(process)
        return found

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


class OpenGateway(CityBrain):
    """The same with a gateway that checks nothing and writes nothing down."""

    name = "citybrain-open"

    def __init__(self, work: Path, workload: Workload, replicas: int) -> None:
        super().__init__(work / "open", workload, replicas)
        self.says = "the same platform behind a gateway without keys, grants, limits and ledger"

    @contextlib.contextmanager
    def running(self) -> Iterator[dict[str, Door]]:
        with super().running():
            self._http, self._grpc = free_ports(2)
            mark = json.loads((self._home / "run" / "platform.json").read_text())["mark"]
            # Without its settings Ray looks for its head elsewhere, and ends this process after a minute.
            environment = clean_environment(
                ray_environment(Home(self._home)) | {
                    "CITYBRAIN_HOME": str(self._home), "CITYBRAIN_PORT": str(self._http),
                    "CITYBRAIN_GRPC_PORT": str(self._grpc), "CITYBRAIN_MARK": mark,
                }
            )  # fmt: skip
            process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("open_gateway.py"))],
                env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            try:
                doors = self.doors()
                deadline = time.monotonic() + START_SECONDS
                for door in doors.values():
                    while not _answers(door):
                        if time.monotonic() > deadline:
                            raise RuntimeError("the open gateway does not answer")
                        time.sleep(0.1)
                yield doors
            finally:
                process.terminate()
                process.wait(30)


def _answers(door: Door) -> bool:
    try:
        return door.ask()[0] == 200
    except OSError:
        return False
