"""Registers, promotes and rolls back until somebody kills it; says so after each act.

python tests/registry_worker.py HOME FOLDER

Each line on its standard input begins another such process.
"""

import os
import sys
from pathlib import Path

import mlflow.store.model_registry.sqlalchemy_store
import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
import yaml
from support_kills import fork_for_each_line, say

from citybrain.core.errors import VersionNotFound
from citybrain.core.schemas import NewPromotion
from citybrain.core.settings import Settings
from citybrain.platform.wiring import SYSTEM, build

MANIFEST = {
    "name": "flow", "title": {"zh": "车流", "en": "Flow"}, "task": "tabular-classification",
    "runtime": "onnx", "weights": "model.onnx", "domain": "traffic", "owner": "traffic",
    "licence": "Apache-2.0", "options": {"features": ["hour"], "labels": ["a", "b"]},
}  # fmt: skip


def work_on(home, work):
    """What a control process does first after a crash, and then acts without end."""
    plane = build(Settings(home=Path(home)))
    plane.projection.run()
    say(act="started", pid=os.getpid())
    number = 0
    while True:
        number += 1
        folder = Path(work) / f"{os.getpid()}-{number}"
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(f"weights {folder}".encode())
        (folder / "algorithm.yaml").write_text(yaml.safe_dump(MANIFEST, allow_unicode=True))
        version = plane.catalogue.register(folder, SYSTEM)
        say(act="register", version=version.version, digest=version.digest)
        wanted = NewPromotion(version=version.version, alias="staging")
        done = plane.lifecycle.promote("flow", wanted, SYSTEM)
        say(act="promote", version=done.version)
        if number % 3 == 0:
            try:
                moved = plane.lifecycle.roll_back("flow", "staging", SYSTEM)
            except VersionNotFound:
                continue
            say(act="rollback", version=moved.version, at=moved.at.isoformat())


if __name__ == "__main__":
    fork_for_each_line(lambda: work_on(*sys.argv[1:]))
