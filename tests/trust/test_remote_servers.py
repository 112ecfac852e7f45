"""Remote models on real servers: Triton (out of nvidia-pytriton) and MLServer, over HTTP and gRPC.

A part of `make trust` alone: the first run makes an environment for each server, which takes
minutes, in the cache folder of whoever runs it.
"""

import os
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import httpx
import numpy as np
import pytest
from support import free_ports, wait_for

from citybrain.core.errors import BadPackage, ModelFailed, RemoteDown
from citybrain.core.settings import IntakeSettings
from citybrain.core.tensors import bytes_array
from citybrain.models.package import Package
from citybrain.models.predictor import Predictor
from citybrain.models.remote import parse_address
from citybrain.models.remote_server import RemoteServer
from citybrain.registry.admission.admit import admit
from citybrain.registry.sandbox import Limits
from citybrain.registry.sources import fetch

if "TRUST_FULL" not in os.environ:
    pytest.skip("real servers are asked by make trust", allow_module_level=True)

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parents[1] / "benchmarks")]
from mlserver_models import write  # noqa: E402 - from beside this file
from serving_environments import own_environment  # noqa: E402 - from the benchmarks

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "citybrain"
SECONDS = 2.0
CARD = {"name": "far-away", "owner": "traffic", "licence": "Apache-2.0", "domain": "traffic"}
A = np.arange(60, dtype=np.float32).reshape(20, 3)
N = np.array([[-(2**62), 7], [2**53 + 1, 0]])
TEXTS = [["拥堵 b".encode()], [b"c d"], [b"x" * 70_000]]
CASES = {
    "sum": ({"a": A, "b": A + 1}, {"y": A * 3 + 1}),  # more rows than Triton's takes at once
    "count": ({"n": N}, {"next": N + 1, "even": N % 2 == 0}),
    "shout": (
        {"text": bytes_array([t for (t,) in TEXTS], (3, 1))},
        {"loud": bytes_array([t.decode().upper().encode() for (t,) in TEXTS], (3, 1))},
    ),
    "half": (
        {"x": np.arange(6, dtype=np.float16).reshape(2, 3)},
        {"y": np.arange(6, dtype=np.float16).reshape(2, 3) * 2},
    ),
    "single": ({"a": A[:5], "b": A[:5]}, {"y": A[:5] * 3}),
}


class Real:
    """A server in an environment of its own, which can be stopped and started again."""

    packages: tuple[str, ...]

    def __init__(self, work):
        self.work = work
        self.python = own_environment(CACHE, self.name, list(self.packages))
        self.ports = free_ports(3)
        self.starts = 0
        self.start()

    def start(self):
        self.starts += 1
        folder = self.work / f"{self.name}-{self.starts}"
        folder.mkdir()
        with (self.work / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(folder), env=os.environ | self.environment(), stdout=log, stderr=log,
                cwd=folder, start_new_session=True,
            )  # fmt: skip
        ready = f"http://127.0.0.1:{self.ports[0]}/v2/models/{self.last}/ready"
        wait_for(lambda: httpx.get(ready, trust_env=False).status_code == 200, 240, pause=1)

    def stop(self):
        os.killpg(self._process.pid, 9)
        self._process.wait()

    def address(self, model, scheme):
        return f"{scheme}://127.0.0.1:{self.ports[scheme != 'triton']}/{model}"


class Triton(Real):
    name, packages, last = "pytriton", ("nvidia-pytriton",), "single"
    models = ("sum", "count", "shout", "half", "single")

    def command(self, folder):
        http, grpc, _ = map(str, self.ports)
        script = HERE / "triton_models.py"
        return [str(self.python), str(script), http, grpc, str(folder / "workspace")]

    def environment(self):
        # Triton's backend finds any libpython of the same minor version: it shall be this one's.
        return {"LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR"))}


class MLServer(Real):
    name, packages, last = "mlserver", ("mlserver",), "sum"
    models = ("sum", "count", "shout")

    def command(self, folder):
        write(folder, *self.ports)
        return [str(self.python.with_name("mlserver")), "start", str(folder)]

    def environment(self):
        return {"PYTHONPATH": str(HERE)}


@pytest.fixture(scope="module", params=[Triton, MLServer])
def server(request, tmp_path_factory):
    found = request.param(tmp_path_factory.mktemp(request.param.name))
    yield found
    found.stop()


@pytest.fixture(params=["triton", "triton+grpc"])
def scheme(request):
    return request.param


@pytest.fixture(autouse=True)
def listed(server, monkeypatch):
    hosts = ",".join(f"127.0.0.1:{port}" for port in server.ports[:2])
    monkeypatch.setenv("CITYBRAIN_REMOTE__HOSTS", hosts)
    monkeypatch.setenv("CITYBRAIN_REMOTE__SECONDS", str(SECONDS))


def take(address, tmp_path):
    source, told = fetch(address, tmp_path / "fetched", None, IntakeSettings())
    found = admit(source, tmp_path / "admitted", told | CARD, Limits(seconds=300))
    return found.folder, found.report


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        assert found[name].tolist() == array.tolist()


def test_every_model_goes_through_admission_and_answers(server, scheme, tmp_path):
    for name in server.models:
        folder, report = take(server.address(name, scheme), tmp_path / name)
        assert report["examined"]["describe"]["server"].startswith(
            "triton " if server.name == "pytriton" else "mlserver "
        )
        inputs, outputs = CASES[name]
        predictor = Predictor.open(folder)
        same(predictor.infer([inputs])[0], outputs)
        same(predictor.infer([inputs])[0], outputs)  # the connection lives
        predictor.runtime.check()
        if server.name == "pytriton":
            most = {"sum": 8, "single": 1}.get(name, 64)
            assert Package.open(folder).manifest.max_batch == most
        predictor.runtime.close()


def test_a_version_is_found_by_its_number_and_another_is_not(server, scheme, tmp_path):
    take(server.address("sum@1", scheme), tmp_path / "a")
    with pytest.raises(BadPackage):
        take(server.address("no-such", scheme), tmp_path / "b")
    if server.name == "pytriton":  # MLServer takes any version for the one that it has
        with pytest.raises(BadPackage, match="sum@2"):
            take(server.address("sum@2", scheme), tmp_path / "c")


def test_what_the_model_says_of_an_input_reaches_the_caller_in_a_line(server, scheme):
    asked = RemoteServer(parse_address(server.address("picky", scheme)))
    try:
        model = asked.read()
        same(asked.infer(model, {"a": A[:, :1]}), {"y": A[:, :1]})
        with pytest.raises(ModelFailed, match="no negative numbers") as failed:
            asked.infer(model, {"a": -A[1:, :1]})
        assert "second line" not in str(failed.value)
        assert "File" not in str(failed.value)
        same(asked.infer(model, {"a": A[:, :1]}), {"y": A[:, :1]})
    finally:
        asked.close()


def test_a_slow_model_is_given_up_in_time_and_the_next_call_is_answered(server, scheme):
    slow = RemoteServer(parse_address(server.address("slow", scheme)))
    quick = RemoteServer(parse_address(server.address("sum", scheme)))
    try:
        model = slow.read()
        began = time.monotonic()
        with pytest.raises(RemoteDown):
            slow.infer(model, {"a": A[:1, :1]})
        assert time.monotonic() - began < SECONDS + 2
        same(quick.infer(quick.read(), {"a": A[:4], "b": A[:4]}), {"y": A[:4] * 3})
    finally:
        slow.close()
        quick.close()


def test_callers_at_once_get_their_own_answers_and_what_a_call_costs(server, scheme):
    asked = RemoteServer(parse_address(server.address("count", scheme)))
    try:
        model = asked.read()

        def call(number):
            began = time.perf_counter()
            rows = np.full((number % 5 + 1, 2), number)
            found = asked.infer(model, {"n": rows})
            assert found["next"].tolist() == (rows + 1).tolist()
            return time.perf_counter() - began

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(call, range(400)))
        print(f"{server.name} {scheme}: p50 {1e3 * median(call(n) for n in range(200)):.2f} ms")
    finally:
        asked.close()


def test_it_is_known_when_the_server_goes_and_when_it_is_back(server, tmp_path):
    """Last, because it takes the server away."""
    opened = []
    for scheme in ("triton", "triton+grpc"):
        folder, _ = take(server.address("sum", scheme), tmp_path / scheme.replace("+", "-"))
        opened.append(Predictor.open(folder))
    inputs, outputs = CASES["sum"]
    for predictor in opened:
        same(predictor.infer([inputs])[0], outputs)
    server.stop()
    for predictor in opened:
        with pytest.raises(RemoteDown):
            predictor.runtime.check()
        began = time.monotonic()
        for _ in range(20):
            assert isinstance(predictor.infer([inputs])[0], RemoteDown)
        assert time.monotonic() - began < SECONDS, "callers waited for a silent server"
    server.start()
    for predictor in opened:

        def answers(predictor=predictor):
            predictor.runtime.check()
            return True

        wait_for(answers, 30)
        same(predictor.infer([inputs])[0], outputs)
        predictor.runtime.close()
