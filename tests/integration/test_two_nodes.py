"""A second node of Ray, on loopback beside the first: replicas there are reached over TLS.

Both are on one machine, because Ray's head listens on loopback alone; to Ray and to the lanes they are two.
"""

import asyncio
import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from support import register_doubler, running_platform, wait_for

from citybrain.core.settings import TlsFiles, child_environment
from citybrain.platform.children import MARK
from citybrain.platform.ray_head import ray_environment
from citybrain.serving.gateway.lanes import Lanes
from citybrain.serving.gateway.serve_link import ray_address
from citybrain.serving.lane_far import read_far
from citybrain.serving.wire import Call

pytestmark = [pytest.mark.platform, pytest.mark.full]
SCRIPT = Path(__file__).parents[1] / "ray_node.py"


def second_node(platform, cpus):
    """As on another machine that was given this home's token and certificates."""
    address = ray_address(platform.home.run).partition("#")[0]
    environment = child_environment(ray_environment(platform.home))
    environment[MARK] = platform.state()["mark"]
    return subprocess.Popen(
        [sys.executable, "-P", str(SCRIPT), address, str(cpus), f"{platform.home.ray}-2"],
        env=environment, stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def end(node):
    """Like a machine that loses its power. Ray puts workers into process groups of their own."""
    processes = psutil.Process(node.pid).children(recursive=True) if node.poll() is None else []
    for process in [node, *processes]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    node.wait()


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory):
    """A head with room for one CPU, a node with two, and a model that asks for two."""
    folder = tmp_path_factory.mktemp("two")
    with running_platform(folder / "home", CITYBRAIN_SERVING__RAY_CPUS="1") as found:
        found.node = second_node(found, 2)
        try:
            with found.client() as city:
                register_doubler(city, folder, "doubler")

                def deployed():
                    return city.deploy("doubler", "challenger", cpus=2).state == "running"

                wait_for(deployed, 120, 1.0)  # refused until the node is seen
            yield found
        finally:
            end(found.node)
            shutil.rmtree(f"{found.home.ray}-2", ignore_errors=True)


def far_lanes(platform):
    return [path for path in platform.home.lanes.glob("*.lane") if path.is_file()]


def test_a_replica_on_another_node_is_reached_over_its_lane(two_nodes):
    (replica,) = two_nodes.replicas()
    assert two_nodes.node.pid in {parent.pid for parent in replica.parents()}
    (path,) = wait_for(lambda: far_lanes(two_nodes), 20)
    lane = read_far(path)
    assert lane.host == "127.0.0.1"
    listening = {c.laddr for c in replica.net_connections("tcp") if c.status == "LISTEN"}
    assert (lane.host, lane.port) in listening
    gateways = [
        pid for name, pid in two_nodes.state()["processes"].items() if name.startswith("gateway-")
    ]

    def connected():
        return all(
            any(
                c.raddr and c.raddr.port == lane.port for c in psutil.Process(pid).net_connections()
            )
            for pid in gateways
        )

    assert wait_for(connected, 20)
    with two_nodes.client() as city:
        example = city.algorithm("doubler").example["inputs"]
        for _ in range(50):
            answer = city.call(
                "POST", "/v1/algorithms/doubler@challenger/predict", json={"inputs": example}
            )
            assert answer["version"] == 1
    said = ray_environment(two_nodes.home)
    files = TlsFiles(*(said[f"RAY_TLS_{n}"] for n in ("SERVER_CERT", "SERVER_KEY", "CA_CERT")))

    async def one_frame():
        lanes = Lanes(two_nodes.home.lanes, files)
        keeper = asyncio.create_task(lanes.keep())
        for _ in range(500):
            if found := lanes.idlest("doubler.challenger.v1.c2"):
                break
            await asyncio.sleep(0.02)
        served = await found.send([Call("task", b"nonsense", -1, "application/json", "r")])
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        return served.replies[0].code

    assert asyncio.run(one_frame()) == "bad_json"


def test_a_node_that_is_gone_takes_its_lanes_with_it(two_nodes):
    assert far_lanes(two_nodes)
    end(two_nodes.node)
    wait_for(lambda: not far_lanes(two_nodes), 90)
