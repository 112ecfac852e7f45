"""Four light algorithms in one replica on a real platform: each answers for itself, whatever happens."""

import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import msgspec
import numpy as np
import onnx
import pytest
from gauges import gauge
from onnx import numpy_helper
from support import wait_for

from citybrain.core.errors import CityBrainError, InvalidInput
from citybrain.serving.shared import REPORT, Report

pytestmark = pytest.mark.platform
NAMES = ["gate", "pump", "sluice", "weir"]
LARGE = ["pump", "weir"]
"""More than the test platform's limit together, and each alone: they take turns in memory."""
LABELS = ["low", "high", "flood"]
BODY = {"inputs": [{"features": {"x": 1.0, "y": 1.0}}]}


def light(folder, name, likes):
    """A gauge of its own that finds one label by far the likeliest: the answer says whose it is."""
    kind = "slow" if name in LARGE else "good"
    made = gauge(folder / f"{name}-{likes}", kind, name, side=600)
    model = onnx.load(made / "model.onnx")
    weights = np.zeros((2, 3), np.float32)
    weights[:, likes] = 5.0
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w"))
    onnx.save(model, made / "model.onnx")
    return made


def ask(city, name):
    """The label and the version that answered, or the error's code."""
    try:
        answer = city.call("POST", f"/v1/algorithms/{name}/predict", json=BODY)
    except CityBrainError as error:
        return error.code
    assert answer["algorithm"] == name
    return answer["results"][0]["label"], int(answer["version"])


def shared_replicas(platform):
    return [
        p for p in platform.replicas() if p.cmdline()[0].startswith("ray::ServeReplica:shared:")
    ]


def shared_bytes(metrics, name):
    line = f'citybrain_shared_bytes{{algorithm="{name}",target="1"}} '
    return float(metrics.split(line)[1].split()[0])


def deployed(city, name):
    (found,) = [d for d in city.deployments() if d.algorithm == name]
    return found


class Callers:
    """Eight clients that call all of them without pause, and what each was answered."""

    def __init__(self, platform, names):
        self.platform, self.names = platform, names
        self.seen, self.stop = Counter(), threading.Event()
        self.threads = [
            threading.Thread(target=self._call, args=(n,), daemon=True) for n in range(8)
        ]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join(40)

    def _call(self, number):
        with self.platform.client() as city:
            while not self.stop.is_set():
                name = self.names[number % len(self.names)]
                number += 1
                self.seen[name, ask(city, name)] += 1

    def wait(self, more):
        reached = self.seen.total() + more
        wait_for(lambda: self.seen.total() >= reached)


@pytest.fixture(scope="module")
def city(platform, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    with platform.client() as found:
        for likes, name in enumerate(NAMES):
            found.register(light(folder, name, likes % 3), name)
        with ThreadPoolExecutor(4) as pool:
            states = list(pool.map(lambda n: found.deploy(n, "1", shared=True).state, NAMES))
        assert states == ["running"] * 4
        started = [p.cmdline()[0] for p in platform.replicas()]
        assert sum(name.startswith("ray::ServeReplica:shared:") for name in started) == 1
        assert not [name for name in started for algorithm in NAMES if f":{algorithm}." in name]
        yield found
        for name in NAMES:
            for deployment in found.deployments():
                if deployment.algorithm == name:
                    found.undeploy(name, deployment.target)
        wait_for(lambda: not shared_replicas(platform))


def right(names=NAMES, version=1):
    return {(name, (LABELS[NAMES.index(name) % 3], version)) for name in names}


def test_each_answer_belongs_to_its_algorithm(city, platform):
    with Callers(platform, NAMES) as callers:
        callers.wait(400)
    assert set(callers.seen) == right()
    for name in NAMES:
        found = deployed(city, name)
        assert (found.shared, found.wanted_replicas, found.running_replicas) == (True, "shared", 1)
    metrics = httpx.get(
        f"{platform.url}/metrics", headers={"authorization": f"Bearer {platform.key}"}
    ).text
    sizes = {name: shared_bytes(metrics, name) for name in NAMES}
    assert min(sizes[name] for name in LARGE) == 0  # and yet both answered all the time


def test_one_whose_files_change_is_closed_alone_until_they_are_back(city, platform):
    report = msgspec.json.decode((platform.home.lanes / REPORT).read_bytes(), type=Report)
    (spec,) = [s.wanted.spec for s in report.models if s.wanted.spec.app.startswith("sluice.")]
    weights = Path(spec.folder) / "model.onnx"
    good, mode = weights.read_bytes(), weights.stat().st_mode
    weights.chmod(0o600)
    try:
        weights.write_bytes(good + b"!")
        wait_for(lambda: deployed(city, "sluice").state == "failed")
        assert "not those that were registered" in deployed(city, "sluice").message
        assert isinstance(ask(city, "sluice"), str)
        others = [name for name in NAMES if name != "sluice"]
        assert [(name, ask(city, name)) for name in others] == sorted(right(others))
    finally:
        weights.write_bytes(good)
        weights.chmod(mode)
    wait_for(lambda: deployed(city, "sluice").state == "running")
    wait_for(lambda: isinstance(ask(city, "sluice"), tuple))


@pytest.mark.full
def test_a_killed_replica_comes_back_with_all_of_them_and_nobody_is_lost(city, platform):
    (victim,) = shared_replicas(platform)
    with Callers(platform, NAMES) as callers:
        callers.wait(100)
        os.kill(victim.pid, signal.SIGKILL)
        wait_for(lambda: [p.pid for p in shared_replicas(platform)] not in ([], [victim.pid]))
        callers.wait(200)
    codes = {answer for _, answer in callers.seen if isinstance(answer, str)}
    assert codes <= {"not_ready"}
    for name in NAMES:
        wait_for(lambda name=name: isinstance(ask(city, name), tuple))
    with Callers(platform, NAMES) as callers:
        callers.wait(200)
    assert set(callers.seen) == right()


def test_one_moves_into_a_replica_of_its_own_and_back_without_a_lost_call(city, platform):
    with Callers(platform, NAMES) as callers:
        for shared in (False, True):
            callers.wait(50)
            found = city.deploy("weir", "1", shared=shared)
            assert (found.state, found.shared) == ("running", shared)
            assert found.running["app"].endswith(".shared") == shared
    assert set(callers.seen) == right()
    assert len(shared_replicas(platform)) == 1


def test_a_new_version_takes_over_and_one_taken_down_leaves_the_others(
    city, platform, tmp_path_factory
):
    city.register(light(tmp_path_factory.mktemp("next"), "gate", 2), "gate")
    city.undeploy("gate", "1")
    wait_for(lambda: not [d for d in city.deployments() if d.algorithm == "gate"])
    assert city.deploy("gate", "challenger", shared=True).state == "running"
    others = NAMES[1:]
    (before,) = shared_replicas(platform)
    with Callers(platform, NAMES) as callers:
        callers.wait(50)
        city.register(light(tmp_path_factory.mktemp("third"), "gate", 0), "gate")
        wait_for(lambda: deployed(city, "gate").running.get("version") == 3)
        callers.wait(100)
    seen = {answer for name, answer in callers.seen if name == "gate"}
    assert seen == {("flood", 2), ("low", 3)}
    with Callers(platform, others) as callers:
        callers.wait(50)
        city.undeploy("gate", "challenger")
        wait_for(lambda: not [d for d in city.deployments() if d.algorithm == "gate"])
        time.sleep(4)  # past LINGER: now it is out of the replica
        callers.wait(50)
    assert set(callers.seen) == right(others)
    assert [p.pid for p in shared_replicas(platform)] == [before.pid]


def test_what_cannot_share_is_refused_with_the_reason(city, platform):
    for asked in ({"replicas": 2}, {"scaling": {"min_replicas": 0, "max_replicas": 2}}):
        with pytest.raises(CityBrainError, match="one replica together") as refused:
            city.call(
                "PUT", "/api/v1/deployments/weir", json={"target": "1", "shared": True, **asked}
            )
        assert refused.value.code == InvalidInput.code
