"""Workers that act until they are killed, forked from one process that has read the libraries."""

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

GONE = "gone\n"


@contextmanager
def forking(*command):
    """A process that begins a worker for each line (`tests/*_worker.py`)."""
    parent = subprocess.Popen(
        [sys.executable, *map(str, command)],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield parent
    finally:
        parent.kill()
        parent.communicate()


def killed(parent, moment):
    """Let a worker act, kill it at a moment after its start; the acts that it acknowledged."""
    parent.stdin.write("\n")
    parent.stdin.flush()
    acts = []
    for line in parent.stdout:
        if line == GONE:
            break
        try:
            acts.append(json.loads(line))
        except ValueError:
            continue  # empty, or torn by the kill: not an acknowledgement
        if acts[-1]["act"] == "started":
            kill = (acts[-1]["pid"], signal.SIGKILL)
            threading.Timer(moment, os.kill, kill).start()
    assert acts, "the worker did not start on what the last kill left"
    return acts[1:]


def say(**act):
    """A worker's line, on its way to the reader before the next act begins."""
    sys.stdout.write(json.dumps(act) + "\n")  # in one piece, also where nothing is buffered
    sys.stdout.flush()


def fork_for_each_line(work):
    """Begin a worker for each line on the standard input, and tell when it is gone."""
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            try:
                work()
            finally:
                os._exit(1)
        os.waitpid(child, 0)
        sys.stdout.write(f"\n{GONE}")  # behind what it may have left torn
        sys.stdout.flush()
