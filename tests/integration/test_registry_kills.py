"""kill -9 in the middle of register, promote and rollback: what was acknowledged is there (D1)."""

import os
import random
import time
from itertools import pairwise
from pathlib import Path

from support_kills import forking, killed

from citybrain.core.settings import Settings
from citybrain.models.package import folder_digest
from citybrain.platform.wiring import build
from citybrain.storage.records.audit import entries

FULL = "TRUST_FULL" in os.environ
SEED = int(os.environ.get("REGISTRY_KILL_SEED", "1"))
KILLS = 25 if FULL else 2
WORKER = Path(__file__).parents[1] / "registry_worker.py"


def test_acknowledged_acts_survive_kills_and_nothing_is_half_done(tmp_path):
    chance = random.Random(SEED)
    home = tmp_path / "home"
    acts = []
    with forking(WORKER, home, tmp_path / "work") as parent:
        for _ in range(KILLS):
            acts += killed(parent, chance.uniform(0.05, 2.5))
    plane = build(Settings(home=home))
    began = time.monotonic()
    plane.projection.run()
    assert time.monotonic() - began < 5

    history = plane.truths.history
    versions = {v.version: v for v in plane.catalogue.versions("flow")}
    assert sorted(versions) == list(range(1, len(versions) + 1))
    for version in versions.values():
        folder, digest = plane.catalogue.folder("flow", version.version)  # checks its signature
        assert folder_digest(folder) == digest == version.digest
        assert version.problem == ""
    registered = {a["version"]: a["digest"] for a in acts if a["act"] == "register"}
    assert registered
    assert registered == {v: versions[v].digest for v in registered}

    moves = history.moves("flow", "staging")
    for newer, older in pairwise(moves):
        assert newer.previous == older.version
    promoted = [a["version"] for a in acts if a["act"] == "promote"]
    assert set(promoted) <= {m.version for m in moves if m.reason.startswith("promotion")}
    rolled = {a["at"]: a["version"] for a in acts if a["act"] == "rollback"}
    assert rolled.items() <= {m.at.isoformat(): m.version for m in moves}.items()

    model = plane.catalogue.client.get_registered_model("flow")
    aliases = {alias: int(version) for alias, version in model.aliases.items()}
    assert aliases == history.aliases("flow")["flow"]
    notes = [e.object for e in entries(plane.truths.database, limit=100_000)
             if e.action == "version.register"]  # fmt: skip
    assert sorted(set(notes)) == sorted(f"flow@{version}" for version in versions)
