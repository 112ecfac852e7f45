"""`make trust`: the full counts of the trust checks, resumable, written to docs/trust.md.

Each check is a pytest selection that runs many times with other seeds, or once with a larger count.
A run that is stopped goes on where it was, as long as the revision is the same; a check that was not
repeated since keeps the revision that it passed at.

    python tests/trust/run.py [--only kills] [--fresh]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / ".trust" / "state.json"
PAGE = ROOT / "docs" / "trust.md"


@dataclass(frozen=True)
class Check:
    """A check and how often its full count runs it."""

    name: str
    says: str
    select: tuple[str, ...]
    units: int
    variable: str


CHECKS = (
    Check(
        "kills", "kill -9 of gateway, replica, control process and Ray head under load: every "
        "answer a client saw is in the ledger once, the platform serves again",
        ("tests/integration/test_kills.py",), 20, "KILL_SEED",
    ),
    Check(
        "registry kills", "kill -9 in the middle of register, promote and rollback, 25 kills a unit: "
        "every acknowledged act is there, no half version, recovered in 5 s",
        ("tests/integration/test_registry_kills.py",), 20, "REGISTRY_KILL_SEED",
    ),
    Check(
        "audit kills", "kill -9 between 14 kinds of control acts and their records, 500 kills, SQLite and PostgreSQL: no "
        "act without its record, no record without its act, the chain whole; an audit that takes nothing: nothing is done",
        ("tests/trust/test_audit_kills.py",), 1, "AUDIT_KILL_SEED",
    ),
    Check(
        "data plane", "100,000 calls at once over JSON, binary tensors and gRPC through shared frames, "
        "canaries in motion, a shared replica that remembers answers and a pipeline, each with its own answer; ten times too "
        "many calls; a replica killed every 20 s for 5 minutes; 20 new versions and 20 rollbacks under "
        "load: no call lost",
        ("tests/integration/test_data_plane.py",), 1, "PLANE_SEED",
    ),
    Check(
        "fairness", "a department asks for ten times of what can be served: others and emergencies, at a "
        "tenth each, get every answer, and wait no more than a fifth longer",
        ("tests/integration/test_fairness.py",), 1, "FAIRNESS_SEED",
    ),
    Check(
        "rollouts", "a release that ends its replica, answers NaN or is ten times as slow is back at 0 % "
        "in 60 s with an event; 10 % of 2,000 calls are 10 % ± 2 % and sticky",
        ("tests/integration/test_rollouts.py",), 5, "ROLLOUT_SEED",
    ),
    Check(
        "sources", "a model of every source and of every transformers family goes through admission "
        "and answers as its library does",
        ("tests/integration/test_sources.py",), 1, "SOURCES_SEED",
    ),
    Check(
        "every source", "a model of each source goes into a running platform, is deployed, and answers a "
        "department by the task API as its package does",
        ("tests/trust/test_every_source.py",), 1, "EVERY_SOURCE_SEED",
    ),
    Check(
        "conversions", "the ONNX form of every family agrees with its source within 1e-3 on every "
        "output, or is refused",
        ("tests/integration/test_conversions.py",), 1, "CONVERSIONS_SEED",
    ),
    Check(
        "identity", "1,000 keys whose secrets lie in no file; every route with six bad credentials: 401; every role "
        "on every route: what the policy says; 20,000 swapped ids: 0 foreign objects, 404 and 403 alike; unknown "
        "words refused; 20,000 reads by three departments: 0 foreign marks; 10,000 wrong passwords and keys",
        ("tests/trust/test_identity.py", "tests/trust/test_isolation.py", "tests/trust/test_brute_force.py"),
        1, "IDENTITY_SEED",
    ),
    Check(
        "inside", "N2: another user of the machine asks every port and socket of a running platform: nothing is told, "
        "nothing reached; nobody joins Ray without its credentials",
        ("tests/trust/test_inside.py",), 1, "INSIDE_SEED",
    ),
    Check(
        "limits", "a limit of 10,000 calls among 64 clients and two gateways lets exactly 10,000 through; 100 "
        "kills of gateways under load with repeated calls: lost 0, doubled 0; SQLite and PostgreSQL",
        ("tests/integration/test_limits.py",), 1, "LIMITS_SEED",
    ),
    Check(
        "remote servers", "models on a real Triton and on MLServer, over HTTP and gRPC: admitted, answering as "
        "the model does, slow, failing, gone and back",
        ("tests/trust/test_remote_servers.py",), 1, "REMOTE_SEED",
    ),
    Check(
        "changes beneath", "files that change under a running replica, a model's server that is silent, a "
        "killed replica of many models, kills while tables are made, 1,000 settings of deployments: said, "
        "refused or put right",
        (
            "tests/integration/test_life.py", "tests/integration/test_remote.py",
            "tests/integration/test_shared.py", "tests/integration/test_tracker.py",
            "tests/integration/test_resource_settings.py",
        ), 1, "CHANGES_SEED",
    ),
    Check(
        "leaving", "gateways that end or are started anew, and the platform that stops, under load: every call "
        "is answered or refused, and the ledger says the same",
        ("tests/integration/test_leaving.py", "tests/integration/test_ending.py"), 1, "LEAVING_SEED",
    ),
    Check(
        "nodes and doors", "a replica on a second node of Ray is reached over TLS with certificates both ways; a "
        "platform for other machines speaks TLS alone, and nothing else listens",
        ("tests/integration/test_two_nodes.py", "tests/integration/test_beyond_loopback.py"), 1, "NODES_SEED",
    ),
    Check(
        "scaling", "replicas follow the load up, down, to nothing and back: no call is lost",
        ("tests/integration/test_scaling.py",), 1, "SCALING_SEED",
    ),
    Check(
        "races", "32 promoters race for the champion, SQLite and PostgreSQL: 200 rounds a unit over the "
        "records, 40 in four processes, 8 over the API (gate, approval, MLflow): one wins each round, "
        "the others get a conflict, readers always see one champion, history is a line",
        ("tests/integration/test_database.py", "-k", "racing"), 5, "RACE_SEED",
    ),
    Check(
        "bodies", "protocol bodies that hypothesis makes, 20,000 examples a unit: decoded or "
        "refused, never a crash",
        ("tests/unit/serving/test_oip.py",), 5, "BODIES_SEED",
    ),
    Check(
        "fuzzing", "1,000,000 inputs a unit, led by the code that they reach, for the reader of JSON and "
        "raw tensors and for that of gRPC messages: refused or decoded, never a crash",
        ("tests/trust/test_fuzz.py",), 1, "FUZZ_SEED",
    ),
    Check(
        "malformed bodies", "10,000 nearly right JSON bodies, 20,000 binary tensors, 10,000 bodies of the "
        "task API, 5,000 forms and 5,000 gRPC messages a unit, over the wire: no 5xx, no restart, memory "
        "flat, right ones echoed",
        ("tests/conformance/test_malformed.py",), 1, "MALFORMED_SEED",
    ),
    Check(
        "generated requests", "every operation of the OpenAPI description, 150 requests a unit of right and "
        "of wrong ones each: no 5xx",
        ("tests/integration/test_openapi.py",), 1, "OPENAPI_SEED",
    ),
    Check(
        "wrong input", "the table of wrong input on every path over HTTP",
        ("tests/integration/test_wrong_input.py",), 1, "INPUT_SEED",
    ),
    Check(
        "console", "A7: 200 payloads in every text field and address of the console, shown as text and never "
        "as markup, the elements of a page the same whatever is written; every act of every route without the "
        "token that only our pages send, in 6 forms, as admin and as developer: refused, no table changed",
        ("tests/trust/test_console.py",), 1, "CONSOLE_SEED",
    ),
    Check(
        "hostile packages", "pickles, programs, archives, bombs, tensors, graphs and packages made "
        "to harm, and 2,000 random archives: refused with a reason, nothing run, nothing outside",
        ("tests/hostile",), 1, "HOSTILE_SEED",
    ),
)  # fmt: skip


def revision() -> str:
    """The commit that is checked; `+` when the tree differs from it."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "citybrain", "tests", "requirements.lock")
    return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")


def main() -> int:
    """Run what is missing of every check, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="one check by name")
    parser.add_argument("--fresh", action="store_true", help="forget what ran before")
    options = parser.parse_args()
    state = {} if options.fresh or not STATE.exists() else json.loads(STATE.read_text())
    state.setdefault("units", {})
    STATE.parent.mkdir(exist_ok=True)
    for check in CHECKS:
        if options.only in ("", check.name):
            _run(check, state)
    return int(any(not unit["passed"] for unit in state["units"].values()))


def _run(check: Check, state: dict) -> None:
    for number in range(check.units):
        name = f"{check.name}/{number + 1}"
        before = state["units"].get(name, {})
        if before.get("passed") and before["revision"] == revision():
            continue
        begin = time.monotonic()
        environment = {**os.environ, check.variable: str(number + 1), "TRUST_FULL": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "--timeout=3600", *check.select], cwd=ROOT, check=False,
            env=environment, capture_output=True, text=True,
        )  # fmt: skip
        closing = (done.stdout.strip().splitlines() or [""])[-1]
        state["units"][name] = {
            "passed": done.returncode == 0, "closing": closing,
            "seconds": round(time.monotonic() - begin), "revision": revision(),
        }  # fmt: skip
        STATE.write_text(json.dumps(state, indent=1))
        _write(state)
        print(f"{name}/{check.units}: {closing}", flush=True)
        if done.returncode:
            print(done.stdout[-4000:])


def _write(state: dict) -> None:
    lines = [
        "# Trust",
        "",
        f"Full counts of `make trust`, {datetime.now(UTC):%Y-%m-%d}; each at the revision that it says. "
        "`make test` runs the same checks at reduced counts.",
        "",
        "| check | what is asked | units passed | of | seconds | revision |",
        "|---|---|---|---|---|---|",
    ]
    for check in CHECKS:
        units = [u for n, u in state["units"].items() if n.startswith(f"{check.name}/")]
        passed = sum(unit["passed"] for unit in units)
        seconds = sum(unit["seconds"] for unit in units)
        seen = ", ".join(sorted({f"`{unit['revision']}`" for unit in units})) or "not run"
        lines.append(
            f"| {check.name} | {check.says} | {passed} | {check.units} | {seconds} | {seen} |"
        )
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
