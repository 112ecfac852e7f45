"""Where the time of a call goes: CPU time of each process during a load, from /proc."""

from __future__ import annotations

import contextlib
import resource
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil
from load import Load
from serving_servers import Server

ROLES = (
    ("citybrain.platform.gateway_process", "gateway"),
    ("citybrain.platform.control", "control"),
    ("ray::ServeReplica", "replica"),
    ("ray::ProxyActor", "proxy"),
    ("ray::HAProxy", "proxy"),
    ("haproxy", "haproxy"),
    ("ray::ServeController", "ray"),
    ("raylet", "ray"),
    ("gcs_server", "ray"),
    ("ray::", "ray"),
    ("/ray/", "ray"),
    ("ray start", "ray"),
)


def role(command: str) -> str:
    """What a process does, by its command line; the replica's threads decode, run and encode."""
    return next((name for part, name in ROLES if part in command), "server")


@dataclass
class Profile:
    """CPU seconds by role, of the server and of the load."""

    seconds: Counter[str] = field(default_factory=Counter)

    def micros(self, load: Load) -> dict[str, float]:
        """Microseconds a call, the dearest role first."""
        return {
            name: round(seconds / max(1, load.answers) * 1e6, 1)
            for name, seconds in self.seconds.most_common()
            if seconds > 0
        }


def _spent(server: Server) -> dict[tuple[int, float], tuple[str, float]]:
    """User and system time of each process of the server that runs now."""
    found = {}
    for process in server.processes():
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            name = role(" ".join(process.cmdline()) or process.name())
            found[process.pid, process.create_time()] = (name, times.user + times.system)
    return found


def _ours() -> float:
    """Of this process and the programs that it has waited for: `wrk`, or the generator."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


@contextlib.contextmanager
def profiling(server: Server) -> Iterator[Profile]:
    """What is spent inside the `with`; complete behind it."""
    profile = Profile()
    before, ours = _spent(server), _ours()
    yield profile
    profile.seconds["load"] += _ours() - ours
    for process, (name, seconds) in _spent(server).items():
        profile.seconds[name] += seconds - before.get(process, (name, 0.0))[1]
