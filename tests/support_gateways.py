"""Real gateways under a real supervisor, without Ray: the replicas are lanes of the test's process."""

import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import yaml
from support import Running, command, doubler, free_ports, wait_for
from support_door import ADMIN

from citybrain.core.home import Home
from citybrain.core.settings import Settings
from citybrain.models.predictor import Predictor
from citybrain.platform.reload import ask_reload
from citybrain.platform.state import read_state, ready_file
from citybrain.platform.wiring import open_truths
from citybrain.serving.desk import Desk
from citybrain.serving.lane import LaneServer
from citybrain.serving.lane_doors import UnixDoor
from citybrain.serving.wire import Served
from citybrain.storage.moments import now
from citybrain.storage.tables import AlgorithmRow


def package(folder, name):
    """Three numbers and themselves again."""
    folder.mkdir()
    doubler(folder / "double.onnx")
    tensors = [{"name": n, "dtype": "FP32", "shape": [-1, 3]} for n in "xy"]
    manifest = {
        "name": name, "title": {"zh": "倍", "en": "Twice"}, "task": "tensor", "runtime": "onnx",
        "weights": "double.onnx", "domain": "traffic", "owner": "platform", "licence": "MIT",
        "options": {"inputs": tensors[:1], "outputs": tensors[1:]},
    }  # fmt: skip
    (folder / "algorithm.yaml").write_text(yaml.safe_dump(manifest, allow_unicode=True))
    return folder


class Replica:
    """A desk behind a lane; `pause`: seconds that each frame takes besides."""

    def __init__(self, home, predictor, name, pause=0.0):
        self._desk, self._pause = Desk(predictor, 1), pause
        self._lock = threading.Lock()
        self._lane = LaneServer(UnixDoor(home.lanes, f"{name}.1.v1"), self._answer)
        self._lane.announce()

    def _answer(self, calls, errand):
        with self._lock:
            time.sleep(self._pause)
            return Served(self._desk.answer(calls, errand))

    def close(self):
        self._lane.withdraw(1.0)


class Gateways(Running):
    """What runs, and how it is told to take over other settings."""

    def processes(self):
        return {k: v for k, v in self.state()["processes"].items() if k.startswith("gateway-")}

    def reload(self, **settings):
        asked = ask_reload(self.home, {f"CITYBRAIN_{k}": v for k, v in settings.items()})

        def answer():
            found = read_state(self.home).get("reload", {})
            return found.get("id") == asked and found["state"] != "running" and found

        return wait_for(answer, 120)

    def wait_for_gateways(self, number):
        """Until so many take connections."""

        def there():
            ready = [ready_file(self.home, pid).exists() for pid in self.processes().values()]
            return len(ready) == number and all(ready)

        wait_for(there, 120)

    def is_ready(self):
        answer = httpx.get(f"{self.url}/v2/health/ready", trust_env=False)
        return answer.status_code == 200


@contextmanager
def gateways(work, models, **settings):
    """`models`: pauses by name."""
    home = Home(Path(work) / "home").make()
    truths = open_truths(Settings(home=home.root))
    replicas = []
    for name, pause in models.items():
        predictor = Predictor.open(package(Path(work) / name, name))
        predictor.warm_up()
        with truths.database.write() as session:
            session.add(
                AlgorithmRow(name=name, owner="platform", approval="self", created_at=now())
            )
        truths.deployments.want(name, "1", 1, ADMIN)
        running = {
            "app": f"{name}.1.v1", "version": 1,
            "manifest": predictor.package.manifest.model_dump(mode="json"),
        }  # fmt: skip
        truths.deployments.saw(name, "1", state="running", version=1, running=running)
        replicas.append(Replica(home, predictor, name, pause))
    truths.database.close()
    http, grpc = free_ports(2)
    said = {f"CITYBRAIN_{k}": str(v) for k, v in settings.items()}
    said |= {
        "CITYBRAIN_HOME": str(home.root), "CITYBRAIN_PORT": str(http),
        "CITYBRAIN_GRPC_PORT": str(grpc),
    }  # fmt: skip
    script = Path(__file__).with_name("gateways_alone.py")
    process = subprocess.Popen([sys.executable, "-P", str(script)], env=os.environ | said)
    threading.Thread(target=process.wait, daemon=True).start()  # or it stays when it has ended
    found = Gateways(home, f"http://127.0.0.1:{http}", f"127.0.0.1:{grpc}")
    try:
        wait_for(found.is_ready, 120)
        yield found
    finally:
        command(home.root, "down")
        for replica in replicas:
            replica.close()
