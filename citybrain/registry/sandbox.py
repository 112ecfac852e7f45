"""A process of its own for what strangers hand in: no network, no files, no time, little memory.

What a developer hands in is opened, converted and tried in here and nowhere else. The child
(`sandbox_child.py`) sees an empty root with Python and the system's libraries read-only, one folder
to work in, its own processes, and no network interface at all; it runs as a user that nobody else is
at that time. The parent reads back a small JSON answer and the files of one folder, and believes
neither.

Where the kernel gives no namespaces, `Isolation.none` still has the limits, and admission then
refuses whatever could run code (pickles).
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from citybrain.core.errors import BadPackage, SandboxFailed, TooLarge
from citybrain.core.settings import QUIET_LIBRARIES

ANSWER_BYTES = 4 << 20
LOOK_SECONDS = 0.05
WAIT_SECONDS = 600.0
USERS = range(65_520, 65_534)
"""Users of children, each of one at a time: neither distributions nor systemd give these numbers."""
TAKEN = Path("/run/citybrain-sandboxes")
"""Whose files are locked by whoever uses the number, whatever platform of this machine it is."""


class Isolation(StrEnum):
    """What keeps the child away from the rest of the machine."""

    own_user = "own-user"
    """Namespaces and a user of the child's own; needs root."""
    user = "user"
    """Namespaces of an ordinary user, without any capability in them."""
    none = "none"
    """Only limits: this kernel or container gives no namespaces."""


@dataclass(frozen=True)
class Limits:
    """What a job may take."""

    seconds: float = 120.0
    memory: int = 4 << 30
    """Bytes of resident memory of all its processes."""
    disk: int = 8 << 30
    """Bytes of its folder."""
    processes: int = 64


@functools.cache
def isolation() -> tuple[Isolation, str]:
    """The best isolation that this machine gives, and why it is not a better one."""
    wanted = Isolation.own_user if os.getuid() == 0 else Isolation.user
    if not sys.platform.startswith("linux") or shutil.which("unshare") is None:
        return Isolation.none, "namespaces need Linux and util-linux's `unshare`"
    trial = subprocess.run(
        [*_namespaces(wanted), "true"], capture_output=True, text=True, timeout=20, check=False
    )
    if trial.returncode:
        return Isolation.none, (trial.stderr.strip() or "unshare failed")[:200]
    if wanted is Isolation.own_user:
        try:
            TAKEN.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            return Isolation.none, f"{TAKEN} cannot be made: {error.strerror}"
    return wanted, ""


def _namespaces(how: Isolation) -> list[str]:
    command = ["unshare", "--net", "--pid", "--mount", "--ipc", "--uts", "--fork", "--kill-child"]
    return [*command, "--user", "--map-root-user"] if how is Isolation.user else command


def run_isolated(
    step: str,
    work: Path,
    request: dict[str, Any],
    *,
    limits: Limits | None = None,
    how: Isolation | None = None,
    library: Path | None = None,
) -> dict[str, Any]:
    """Do one step on a folder; the step's answer, or the error that it ended with.

    `step` is `module:function` with the signature `(work, request) -> dict`, where `request` holds
    `isolated` besides; `library` is one more folder to import from.
    `work` is the only thing the child can write to, as `/job`; what it finds there was put there
    by the caller, and what it leaves must be examined. Raises BadPackage with the child's reason,
    TooLarge over a limit, SandboxFailed when the child died without a word.
    """
    limits = limits or Limits()
    how = how or isolation()[0]
    (work / "tmp").mkdir(exist_ok=True)
    (work / "answer.json").unlink(missing_ok=True)
    told = {
        "step": step, "request": request, "work": str(work), "isolation": how,
        "readable": _readable(library), "library": str(library or ""), "memory": limits.memory, "disk": limits.disk,
        "seconds": limits.seconds, "processes": limits.processes,
    }  # fmt: skip
    if how is Isolation.own_user:
        with _own_user() as user:
            _give(work, user)
            try:
                over, status = _run(work, {**told, "user": user}, how, limits)
            finally:
                _give(work, os.getuid())
    else:
        over, status = _run(work, told, how, limits)
    if over:
        raise TooLarge(f"Admission was ended: {over}.", hint="Hand in something smaller.")
    return _answer(work, status)


@contextlib.contextmanager
def _own_user() -> Iterator[int]:
    """A user that no other child is: the kernel counts processes, a limit of ours, by user."""
    until = time.monotonic() + WAIT_SECONDS
    while True:
        for user in USERS:
            with (TAKEN / str(user)).open("wb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield user  # the lock goes with the file, also when this process is killed
                return
        if time.monotonic() > until:
            raise SandboxFailed("Too many sandboxes run on this machine.", hint="Repeat later.")
        time.sleep(LOOK_SECONDS)


def _run(work: Path, told: dict[str, Any], how: Isolation, limits: Limits) -> tuple[str, int]:
    """The child from start to end; which limit it passed, if it did, and its status."""
    command = [*(_namespaces(how) if how is not Isolation.none else []), sys.executable, "-I", "-m",
               "citybrain.registry.sandbox_child"]  # fmt: skip
    with (work / "log.txt").open("wb") as log:
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
            env=_environment(), cwd=work, close_fds=True,
        )  # fmt: skip
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError), child.stdin:
            child.stdin.write(json.dumps(told).encode())
        try:
            over = _watch(child, work, limits)
        finally:
            _end(child)
    return over, child.returncode


def _watch(child: subprocess.Popen[bytes], work: Path, limits: Limits) -> str:
    """Wait for the end; which limit was passed, if one was."""
    until = time.monotonic() + limits.seconds
    looked = 0.0
    while child.poll() is None:
        time.sleep(LOOK_SECONDS)
        now = time.monotonic()
        if now > until:
            return f"it took longer than {limits.seconds:g} seconds"
        if _memory(child.pid) > limits.memory:
            return f"it took more than {limits.memory >> 20} MB of memory"
        if now - looked > 0.5:
            looked = now
            if _size(work) > limits.disk:
                return f"it wrote more than {limits.disk >> 20} MB"
    return ""


def _memory(process_id: int) -> int:
    total = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(process_id)
        for one in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += one.memory_info().rss
    return total


def _size(folder: Path) -> int:
    total = 0
    for root, _, files in os.walk(folder, onerror=None):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_blocks * 512  # noqa: PTH118 - walked
    return total


def _end(child: subprocess.Popen[bytes]) -> None:
    # Its first process is the namespace's init: with it the kernel ends all the others.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _answer(work: Path, status: int) -> dict[str, Any]:
    path = work / "answer.json"
    try:
        if path.is_symlink() or path.stat().st_size > ANSWER_BYTES:
            raise ValueError("not a small file")
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise TypeError("not an object")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise SandboxFailed(
            f"Admission ended without an answer (status {status}): {_last_words(work)}",
            hint="The file is broken, or needs more memory or time than the platform gives.",
        ) from error
    if problem := found.get("problem"):
        raise BadPackage(str(problem)[:2000], hint=str(found.get("hint", ""))[:1000])
    return found


def _last_words(work: Path) -> str:
    with contextlib.suppress(OSError), (work / "log.txt").open("rb") as log:
        log.seek(max(0, (work / "log.txt").stat().st_size - 2000))
        lines = log.read(2000).decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it left no message"
    return "it left no message"


def _give(work: Path, user: int) -> None:
    """Make the folder this user's; links that the child may have left are not followed."""
    os.chown(work, user, user)
    for root, folders, files in os.walk(work):
        for name in (*folders, *files):
            os.chown(os.path.join(root, name), user, user, follow_symlinks=False)  # noqa: PTH118


def _readable(library: Path | None) -> list[str]:
    """Python, its libraries and the system's: what the child sees, read-only."""
    import citybrain

    paths = {Path(sys.prefix), Path(sys.base_prefix), Path(citybrain.__file__).parent}
    paths |= {library} if library else set()
    paths |= {Path(p) for p in sys.path if p and Path(p).name in ("site-packages", "dist-packages")}
    paths |= {Path(p) for p in ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache")}
    found = importlib.util.find_spec("torch")  # may lie elsewhere than in site-packages
    if found and found.submodule_search_locations:
        paths.add(Path(next(iter(found.submodule_search_locations))))
    paths |= {path.resolve() for path in paths if path.is_symlink()}  # a linked environment
    kept: list[Path] = []
    for path in sorted(p for p in paths if p.exists()):
        if not any(path.is_relative_to(other) for other in kept):
            kept.append(path)
    return [str(path) for path in kept]


def _environment() -> dict[str, str]:
    """Nothing of ours: no key, no home, no address; and libraries that stay at home."""
    return {
        **QUIET_LIBRARIES,
        "PATH": "/usr/bin:/bin", "HOME": "/tmp", "USER": "nobody", "TMPDIR": "/tmp",  # noqa: S108 - the child's own
        "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1", "ULTRALYTICS_SAFE_LOAD": "1",
        "YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true", "YOLO_CONFIG_DIR": "/tmp",  # noqa: S108
        "OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
