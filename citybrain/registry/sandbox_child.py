"""The child's side of the sandbox: enter an empty root, become another user, do one step, answer.

Runs as `python -I -m citybrain.registry.sandbox_child` inside fresh namespaces (see sandbox.py).
Nothing that was handed in is touched before the last privilege is gone.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import sys
import traceback
from pathlib import Path
from typing import Any

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
KEPT_FLAGS = MS_NOSUID | MS_NODEV | MS_NOEXEC | 0x400 | 0x800  # and noatime, nodiratime
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38
DEVICES = ("null", "zero", "random", "urandom")
ADDRESS_SPACE = 16 << 30
"""Beyond the memory limit, for libraries: CUDA builds of torch map much and touch little."""

libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: Any) -> None:
    if getattr(libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    _call("mount", source.encode(), target.encode(), kind.encode(), flags, data.encode())


def _bind(source: str, target: str, *, writable: bool = False) -> None:
    _mount(source, target, "", MS_BIND | MS_REC)
    flags = os.statvfs(target).f_flag & KEPT_FLAGS | MS_NOSUID | MS_NODEV
    _mount("", target, "", MS_BIND | MS_REMOUNT | flags | (0 if writable else MS_RDONLY))


def enter_root(work: str, readable: list[str]) -> None:
    """Replace the root by an empty one with Python, libraries, `/job` and `/tmp` in it."""
    _mount("", "/", "", MS_REC | MS_PRIVATE)
    root = f"{work}/tmp"  # noqa: S108 - any folder will do to hang the new root on
    _mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    # Before the rest: what is readable may itself lie in /tmp, as a clone there does.
    Path(root, "tmp").mkdir()
    _mount("tmpfs", f"{root}/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=512m,mode=1777")  # noqa: S108
    for path in readable:
        inside = root + path
        if os.path.islink(path):  # noqa: PTH114 - before the root is left
            Path(inside).parent.mkdir(parents=True, exist_ok=True)
            os.symlink(os.readlink(path), inside)  # noqa: PTH115,PTH211
            continue
        if Path(path).is_dir():
            Path(inside).mkdir(parents=True, exist_ok=True)
        else:
            Path(inside).parent.mkdir(parents=True, exist_ok=True)
            Path(inside).touch()
        _bind(path, inside)
    for name in ("dev", "dev/shm", "proc", "job", ".old"):
        Path(root, name).mkdir(exist_ok=True)
    for device in DEVICES:
        Path(root, "dev", device).touch()
        _mount(f"/dev/{device}", f"{root}/dev/{device}", "", MS_BIND)
    _mount("tmpfs", f"{root}/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=64m")  # noqa: S108
    try:
        _mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        _bind(f"{root}/proc/sys", f"{root}/proc/sys")
    except OSError:  # containers that hide parts of /proc forbid a new one; libraries do without
        pass
    _bind(work, f"{root}/job", writable=True)
    os.chdir(root)
    _call("pivot_root", b".", b".old")
    os.chdir("/")
    _call("umount2", b"/.old", MNT_DETACH)
    Path("/.old").rmdir()
    _mount("", "/", "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    os.chdir("/job")


def drop_privileges(user: int | None) -> None:
    """Become this user, or stay one, without a single capability; there is no way back."""
    _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for capability in range(64):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
            break  # beyond the last one
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    _call("capset", ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))
    _call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)


def limit(memory: int, disk: int, seconds: float, processes: int) -> None:
    """Hard limits of the kernel; the parent watches the sums as well."""
    for kind, value in (
        (resource.RLIMIT_AS, memory + ADDRESS_SPACE),
        (resource.RLIMIT_FSIZE, disk),
        (resource.RLIMIT_CPU, int(seconds * 4)),
        (resource.RLIMIT_NOFILE, 512),
        (resource.RLIMIT_NPROC, processes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.setrlimit(kind, (value, value))
    os.nice(5)


def main() -> None:
    """Read what to do, give everything up, do it."""
    libc.prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0)
    os.umask(0o022)  # the platform's own keeps other users from entering the folders made here
    told = json.loads(sys.stdin.buffer.read())
    work = Path(told["work"])
    if told["isolation"] != "none":
        enter_root(told["work"], told["readable"])
        work = Path("/job")
    limit(told["memory"], told["disk"], told["seconds"], told["processes"])
    if told["isolation"] != "none":
        drop_privileges(told.get("user"))
    answer = _step(told, work)
    # Whole or not at all: a step that was killed in the middle of its answer has none.
    (work / "answer.new").write_text(json.dumps(answer))
    (work / "answer.new").rename(work / "answer.json")
    sys.stdout.flush()
    os._exit(0)  # libraries' own endings take long and may hang


def _step(told: dict[str, Any], work: Path) -> dict[str, Any]:
    from citybrain.core.errors import CityBrainError

    module, _, function = told["step"].partition(":")
    if told["library"]:
        sys.path.append(told["library"])
    try:
        step = getattr(importlib.import_module(module), function)
        told["request"]["isolated"] = told["isolation"] != "none"
        answer: dict[str, Any] = step(work, told["request"])
        return answer
    except CityBrainError as error:
        return {"problem": error.message, "hint": error.hint}
    except MemoryError:
        return {"problem": "It needs more memory than a job is given.", "hint": ""}
    except Exception as error:
        traceback.print_exc()
        reason = (str(error).strip().splitlines() or [""])[0]
        return {"problem": f"It cannot be read: {type(error).__name__}: {reason[:300]}", "hint": ""}


if __name__ == "__main__":
    main()
