"""The server that is asked, and the table of what it passed.

By default the server is our own platform with the echo model. `CITYBRAIN_CONFORMANCE_URL`,
`_GRPC` and `_MODEL` name another one with an equivalent model; what is ours alone is skipped then.
`CITYBRAIN_CONFORMANCE_NAME` is what its table is called in docs/doors.md, and
`CITYBRAIN_CONFORMANCE_WRITE=1` writes it there.
"""

import os
from contextlib import contextmanager
from functools import cache

import httpx
import pytest
from support import wait_for

from conformance import colour_model, echo_model, matrix
from conformance.servers import Server

OTHER = os.environ.get("CITYBRAIN_CONFORMANCE_URL", "")


@pytest.fixture(scope="package")
def server(request, tmp_path_factory):
    if OTHER:
        with _asked(
            OTHER, os.environ["CITYBRAIN_CONFORMANCE_GRPC"],
            os.environ["CITYBRAIN_CONFORMANCE_MODEL"],
        ) as found:  # fmt: skip
            yield found
        return
    platform = request.getfixturevalue("platform")
    folder = echo_model.write(tmp_path_factory.mktemp("echo"))
    with _deployed(platform, folder, echo_model.NAME) as version:
        with _asked(platform.url, platform.grpc, echo_model.NAME, platform.key, version) as found:
            yield found


@pytest.fixture(scope="package")
def colours(platform, tmp_path_factory):
    """The name of an algorithm that takes pictures."""
    folder = colour_model.write(tmp_path_factory.mktemp("colours"))
    with _deployed(platform, folder, colour_model.NAME):
        yield colour_model.NAME


@contextmanager
def _deployed(platform, folder, name):
    with platform.client() as city:
        version = str(city.register(folder, name).version)
        assert city.deploy(name, version).state == "running"
        wait_for(lambda: city.call("GET", f"/v2/models/{name}/ready") == {"ready": True})
        yield version
        city.undeploy(name, version)


@contextmanager
def _asked(url, grpc, model, key="", version=""):
    headers = {"authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as http:
        yield Server(url, grpc, model, key, http, version)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    if not OTHER:
        return
    if item.get_closest_marker("ours"):
        pytest.skip("ours alone")
    door = item.get_closest_marker("door")
    if door and door.args[0] == "REST, binary" and "binary_tensor_data" not in _extensions():
        pytest.skip("the server does not say that it has the binary extension")


@cache
def _extensions():
    return httpx.get(f"{OTHER}/v2", trust_env=False).json()["extensions"]


def pytest_runtest_makereport(item, call):
    """Remember how a case of the matrix ended; a skipped one counts nowhere."""
    door, feature = (item.get_closest_marker(name) for name in ("door", "feature"))
    if door is None or feature is None or call.when == "teardown":
        return
    if call.excinfo is not None and call.excinfo.errisinstance(pytest.skip.Exception):
        return
    if call.when == "call" or call.excinfo is not None:
        matrix.note(item.config, feature.args[0], door.args[0], passed=call.excinfo is None)
