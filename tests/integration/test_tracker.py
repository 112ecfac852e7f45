"""MLflow's file is there whole or not at all, whenever the process that makes it is killed."""

import os
import signal
import subprocess
import sys
import time

import pytest

from citybrain.registry.tracker import open_client

MAKE = "import sys; from pathlib import Path; from citybrain.registry.tracker import open_client; open_client(Path(sys.argv[1]))"


@pytest.mark.parametrize(
    "late", [0.15] + [pytest.param(late, marks=pytest.mark.full) for late in (0.0, 0.6)]
)
def test_a_kill_among_the_migrations_leaves_nothing_behind_that_hinders(tmp_path, late):
    maker = subprocess.Popen([sys.executable, "-P", "-c", MAKE, str(tmp_path)])
    deadline = time.monotonic() + 120
    while not list(tmp_path.iterdir()):  # libraries take seconds to come
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(late)
    os.kill(maker.pid, signal.SIGKILL)
    maker.wait()
    client = open_client(tmp_path)
    assert [one.experiment_id for one in client.search_experiments()] == ["0"]
    client.create_registered_model("flow")
    assert [one.name for one in open_client(tmp_path).search_registered_models()] == ["flow"]
