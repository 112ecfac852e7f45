"""The processes that a supervisor starts: each in a group of its own, all with the same mark."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass

import psutil

MARK = "CITYBRAIN_MARK"


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

    @property
    def is_gateway(self) -> bool:
        """Whether it answers at the doors."""
        return self.name.startswith("gateway-")

    def tell_to_end(self) -> None:
        """Ask the process and those of its group to end."""
        if self.process is not None:
            _signal_group(self.process.pid, signal.SIGTERM)

    def has_ended(self) -> bool:
        """Whether there is no process (any more)."""
        return self.process is None or self.process.poll() is not None

    def end(self, until: float) -> bool:
        """Wait for its end until this moment, then make one; whether that was needed."""
        if self.process is None:
            return False
        late = False
        try:
            self.process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            late = True
        end_group(self.process.pid)
        self.process.wait()
        return late


def end_group(process_id: int) -> None:
    """End what is left of a child's process group."""
    _signal_group(process_id, signal.SIGKILL)


def _signal_group(process_id: int, number: int) -> None:
    try:
        os.killpg(process_id, number)
    except ProcessLookupError:
        return


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
