"""A control plane without a cluster, and clients of its API: for tests of the registry."""

import hashlib

import yaml
from starlette.testclient import TestClient

from citybrain.core.schemas import NewDepartment, NewKey
from citybrain.core.settings import Settings
from citybrain.models.package import MANIFEST
from citybrain.platform.control import create_app
from citybrain.platform.issuing import issue_key
from citybrain.platform.wiring import SYSTEM, build
from citybrain.sdk import CityBrain
from citybrain.storage.journal import Admitted, JournalWriter, Settled
from citybrain.storage.moments import now

REPORT = {
    "items": 10, "baseline": {"name": "b", "metrics": {"mae": 3.0}}, "champion": {}, "slices": {},
    "gate": [], "worst": [],
    "metrics": {"mae": {"value": 1.25, "low": 1.0, "high": 1.5, "greater_is_better": 0.0}},
}  # fmt: skip


def manifest(name="flow", **changes):
    return {
        "name": name, "title": {"zh": "车流", "en": "Flow"}, "task": "tabular-classification",
        "runtime": "onnx", "weights": "model.onnx", "domain": "traffic", "owner": "traffic",
        "licence": "Apache-2.0",
        "options": {"features": ["hour"], "labels": ["a", "b"], "example": {"hour": 7.0}},
    } | changes  # fmt: skip


class World:
    """A control plane without a cluster, and a client of its API."""

    def __init__(self, home, **settings):
        self.plane = build(Settings(home=home, **settings))
        self.http = TestClient(create_app(self.plane), base_url="http://city.test")
        people = self.plane.truths.people
        for name in ("traffic", "health", "tourism"):
            people.add_department(NewDepartment(name=name), SYSTEM)
        self.admin = self.client("platform", "admin")
        self.owner = self.client("traffic", "developer")
        self.count = 0

    def client(self, department, role, purposes=("operation",)):
        new = NewKey(department=department, role=role, purposes=list(purposes))
        issued = issue_key(self.plane.truths, new, SYSTEM)
        found = CityBrain("http://city.test", issued.secret)
        found.close()
        found.id = issued.id
        found._http = TestClient(
            self.http.app, base_url="http://city.test", raise_server_exceptions=False,
            headers={"authorization": f"Bearer {issued.secret}"},
        )  # fmt: skip
        return found

    def register(self, folder, name="flow", content=None, **changes):
        self.count += 1
        folder = folder / f"package-{self.count}"
        folder.mkdir()
        (folder / "model.onnx").write_bytes(content or f"weights {self.count}".encode())
        (folder / MANIFEST).write_text(yaml.safe_dump(manifest(name, **changes)))
        return self.plane.catalogue.register(folder, SYSTEM).version

    def examined(self, version, name="flow"):
        evaluations = self.plane.truths.evaluations
        one = evaluations.start("peak", name, version, "", SYSTEM)
        evaluations.change(one.id, state="done", passed=True, report=REPORT)

    def calls(self, folder, department, version, count, name="flow"):
        writer = JournalWriter(folder)
        moment = int(now().timestamp() * 1000)
        for number in range(count):
            request = hashlib.md5(f"{department}{version}{number}".encode()).hexdigest()
            a = Admitted(
                request, moment, f"key-{department}", department, name, "operation", "task"
            )
            writer.admit(a)
            writer.settle(Settled(*a, version, 200, 1, 900))
        writer.flush()
        self.plane.truths.usage.load(folder)
