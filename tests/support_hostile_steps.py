"""What a hostile conversion would try, run as steps inside the sandbox by its tests."""

import contextlib
import os
import signal
import socket
import time
from pathlib import Path


def answer_back(work, request):
    (work / "out").mkdir(exist_ok=True)
    (work / "out" / "made.txt").write_text("made")
    return {"uid": os.getuid(), "request": request, "pid": os.getpid()}


def open_any(path):
    return os.listdir(path) if path.is_dir() else [path.read_bytes()[:50]]


def first(found):
    found = [str(one) for one in found]
    if not found:
        raise OSError("nothing there")
    return found[0]


def look_around(work, request):
    """Everything that can be seen or reached, as a list of successes."""
    reached = []

    def attempt(name, act):
        with contextlib.suppress(OSError):
            found = act()
            reached.append(f"{name}: {found!r}"[:200])

    for path in ["/etc/shadow", "/etc/passwd", "/home", "/var", "/run", request["secret"]]:
        attempt(f"read {path}", lambda path=path: list(open_any(Path(path))))
    attempt("environment", lambda: first(k for k in os.environ if "SECRET" in k))
    attempt("root's files", lambda: first(p for p in Path("/root").iterdir() if p.is_file()))
    for path in [
        "/usr/x",
        "/x",
        "/dev/x",
        "/proc/sys/kernel/hostname",
        __file__,
        request["secret"],
    ]:
        attempt(f"write {path}", lambda path=path: Path(path).write_text("x"))
    for family, address in [
        (socket.AF_INET, ("127.0.0.1", request["port"])),
        (socket.AF_INET, ("169.254.169.254", 80)),
        (socket.AF_INET, ("10.0.0.1", 53)),
        (socket.AF_UNIX, request["socket"]),
    ]:

        def connect(family=family, address=address):
            with socket.socket(family) as s:
                s.settimeout(1)
                s.connect(address)

        attempt(f"connect {address}", connect)
    attempt("kill parent", lambda: os.kill(request["process"], signal.SIGTERM))
    attempt("kill all", lambda: os.kill(-1, 0))
    attempt(
        "setuid", lambda: os.setuid(0) if os.getuid() else (_ for _ in ()).throw(OSError("is 0"))
    )
    attempt("chroot", lambda: os.chroot("/job"))
    attempt("mknod", lambda: os.mknod("/job/tmp/device", 0o20666, os.makedev(1, 1)))
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)

    def syscall(name, *arguments):
        if getattr(libc, name)(*arguments) < 0:
            raise OSError(ctypes.get_errno(), name)

    attempt("ptrace", lambda: syscall("ptrace", 16, request["process"], 0, 0))
    attempt("mount", lambda: syscall("mount", b"none", b"/job", b"tmpfs", 0, b""))
    return {"reached": reached}


def fork_bomb(work, request):
    count = 0
    while True:
        try:
            if os.fork() == 0:
                time.sleep(600)
        except OSError:
            return {"children": count}
        count += 1


def hold_bomb(work, request):
    """A fork bomb that has reached its limit, says so, and stays until the file `enough` comes."""
    fork_bomb(work, request)
    (work / "bombed").touch()
    while not (work / "enough").exists():
        time.sleep(0.05)
    return {"uid": os.getuid()}


def start_processes(work, request):
    """As many children as were asked for, all at once, as an honest conversion might need."""
    children = []
    for _ in range(request["count"]):
        child = os.fork()  # an OSError is the answer to somebody else's bomb
        if child == 0:
            time.sleep(600)
        children.append(child)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return {"uid": os.getuid(), "started": len(children)}


def leave_children(work, request):
    for _ in range(5):
        if os.fork() == 0:
            os.setsid()
            while True:
                (work / "alive").write_text(str(time.time()))
                time.sleep(0.05)
    while not (work / "alive").exists():
        time.sleep(0.01)
    return {}


def fill_disk(work, request):
    number = 0
    while True:
        with (work / f"big{number}").open("wb") as file:
            file.write(b"\1" * (16 << 20))
        number += 1


def fill_memory(work, request):
    kept = []
    while True:
        kept.append(bytearray(os.urandom(1 << 20) * 16))


def sleep_for_ever(work, request):
    time.sleep(600)


def die(work, request):
    print("something broke", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
    os._exit(3)


def lie(work, request):
    kind = request["kind"]
    path = work / "answer.json"
    if kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "huge":
        path.write_bytes(b"[" * (5 << 20))
    elif kind == "deep":
        path.write_bytes(b"[" * 100_000)
    elif kind == "junk":
        path.write_bytes(b"\xff\xfe")
    os._exit(0)


def links(work, request):
    (work / "out").mkdir()
    (work / "out" / "shadow").symlink_to("/etc/shadow")
    return {}
