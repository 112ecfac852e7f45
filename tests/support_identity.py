"""A control plane without a cluster, with two departments and one of everything for each."""

import uuid
from datetime import timedelta

import yaml
from starlette.testclient import TestClient

from citybrain.core.names import Ref
from citybrain.core.schemas import Actor, NewDepartment, NewGrant, NewKey
from citybrain.core.schemas.grants import NewGrantRequest
from citybrain.core.settings import Settings
from citybrain.platform.control import create_app
from citybrain.platform.issuing import issue_key
from citybrain.platform.wiring import SYSTEM, build
from citybrain.storage.journal import Admitted, JournalWriter, Settled
from citybrain.storage.moments import now

CITY = "http://city.test"
DEPARTMENTS = ("tourism", "health")
ROLES = ("developer", "department", "admin", "auditor")
JSON = {"content-type": "application/json"}
REPORT = {
    "items": 10, "baseline": {"name": "majority", "metrics": {"macro-f1": 0.2}}, "champion": {},
    "metrics": {"macro-f1": {"value": 0.9, "low": 0.8, "high": 0.95, "greater_is_better": 1.0}},
    "slices": {}, "gate": [], "worst": [], "latency_ms": {"p50": 1.0, "p95": 2.0},
}  # fmt: skip


class World:
    """Its application, a key for each role and department, and the objects of each by kind."""

    def __init__(self, home, **settings):
        self.plane = build(Settings(home=home, **settings))
        self.truths = self.plane.truths
        self.app = create_app(self.plane)
        self.count = 0
        for name in DEPARTMENTS:
            self.truths.people.add_department(NewDepartment(name=name), SYSTEM)
        self.secrets = {
            (department, role): self.key(department, role).secret
            for department in ("platform", *DEPARTMENTS)
            for role in (("admin", "auditor") if department == "platform" else ROLES[:2])
        }
        self.objects = {name: self.make(name, home) for name in DEPARTMENTS}

    def key(self, department, role="department", **more):
        return issue_key(
            self.truths, NewKey(department=department, role=role, level="personal", **more), SYSTEM
        )

    def secret(self, role, department="tourism"):
        """The key of a role; developers and callers are of a department."""
        return self.secrets["platform" if role in ROLES[2:] else department, role]

    def client(self, address="testclient"):
        return TestClient(
            self.app, base_url=CITY, follow_redirects=False, raise_server_exceptions=False,
            client=(address, 50000),
        )  # fmt: skip

    def call(self, request, department, algorithm, version):
        """A call that was made, as the ledger knows it."""
        folder = self.truths.home.work / request
        folder.mkdir()
        writer = JournalWriter(folder)
        moment = int(now().timestamp() * 1000)
        admitted = Admitted(
            request, moment, f"k-{department}", department, algorithm, "operation", "task"
        )
        writer.admit(admitted)
        writer.settle(Settled(*admitted, version, 200, 1, 900))
        writer.flush()
        self.truths.usage.load(folder)

    def make(self, department, home):
        """The objects of a department: their ids by kind."""
        truths, name = self.truths, f"{department}-flow"
        folder = home / f"package-{department}"
        folder.mkdir()
        (folder / "model.onnx").write_bytes(f"weights of {department}".encode())
        (folder / "algorithm.yaml").write_text(yaml.safe_dump(manifest(name, department)))
        version = self.plane.catalogue.register(folder, SYSTEM).version
        actor = Actor(key=f"k-{department}", department=department, role="developer")
        evaluation = truths.evaluations.start("scenic-crowd", name, version, "other.csv", actor)
        truths.evaluations.change(evaluation.id, state="done", passed=True, report=REPORT)
        job, call = uuid.uuid4().hex[:12], uuid.uuid4().hex
        truths.jobs.submit(
            job, Ref(name), "tabular-classification", "operation", "jsonl", 10, 5, actor, most=50
        )
        self.call(call, department, name, version)
        asked = self.plane.requests.ask(
            NewGrantRequest(department=department, algorithm=name, reason="a try"), actor
        )
        return {
            "algorithm": name,
            "version": version,
            "promotion": truths.history.ask(name, "champion", version, "", actor).id,
            "conversion": truths.conversions.start(name, version, "onnx", "", actor).id,
            "evaluation": evaluation.id,
            "job": job,
            "call": call,
            "key": self.key(department).id,
            "department": department,
            "request": asked.id,
            "asking": asked.id,
            "grant": truths.people.add_grant(
                NewGrant(department=department, algorithm=name, until=now() + timedelta(days=9)),
                SYSTEM,
            ).id,
        }


def manifest(name, owner, **more):
    return {
        "name": name, "title": {"zh": name, "en": name}, "task": "tabular-classification",
        "runtime": "onnx", "weights": "model.onnx", "domain": "tourism", "owner": owner,
        "licence": "MIT", "options": {"features": ["hour"], "labels": ["a", "b"]}, **more,
    }  # fmt: skip
