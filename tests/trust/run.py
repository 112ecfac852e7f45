"""`make trust`: the full counts of the trust checks, resumable, written to docs/trust.md.

Each check is a pytest selection that runs many times with other seeds, or once with a larger count.
A run that is stopped goes on where it was, as long as the revision is the same.

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
        "sources", "a model of every source and of every transformers family goes through admission "
        "and answers as its library does",
        ("tests/integration/test_sources.py",), 1, "SOURCES_SEED",
    ),
    Check(
        "races", "32 promoters race for the champion, 200 rounds a unit, SQLite and PostgreSQL: one "
        "wins each round, readers always see one champion, history is a line",
        ("tests/integration/test_database.py", "-k", "racing"), 5, "RACE_SEED",
    ),
    Check(
        "bodies", "protocol bodies that hypothesis makes, 20,000 examples a unit: decoded or "
        "refused, never a crash",
        ("tests/unit/serving/test_oip.py",), 5, "BODIES_SEED",
    ),
    Check(
        "wrong input", "the table of wrong input on every path over HTTP",
        ("tests/integration/test_wrong_input.py",), 1, "INPUT_SEED",
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
    if state.get("revision") != revision():
        state = {"revision": revision(), "units": {}}
    STATE.parent.mkdir(exist_ok=True)
    for check in CHECKS:
        if options.only in ("", check.name):
            _run(check, state)
    _write(state)
    return int(any(not unit["passed"] for unit in state["units"].values()))


def _run(check: Check, state: dict) -> None:
    for number in range(check.units):
        name = f"{check.name}/{number + 1}"
        if state["units"].get(name, {}).get("passed"):
            continue
        begin = time.monotonic()
        environment = {**os.environ, check.variable: str(number + 1), "TRUST_FULL": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", *check.select], cwd=ROOT, check=False,
            env=environment, capture_output=True, text=True,
        )  # fmt: skip
        closing = (done.stdout.strip().splitlines() or [""])[-1]
        state["units"][name] = {
            "passed": done.returncode == 0, "closing": closing,
            "seconds": round(time.monotonic() - begin),
        }  # fmt: skip
        STATE.write_text(json.dumps(state, indent=1))
        print(f"{name}/{check.units}: {closing}", flush=True)
        if done.returncode:
            print(done.stdout[-4000:])


def _write(state: dict) -> None:
    lines = [
        "# Trust",
        "",
        f"Full counts of `make trust` at revision `{state['revision']}`, "
        f"{datetime.now(UTC):%Y-%m-%d}. `make test` runs the same checks at reduced counts.",
        "",
        "| check | what is asked | units passed | of | seconds |",
        "|---|---|---|---|---|",
    ]
    for check in CHECKS:
        units = [u for n, u in state["units"].items() if n.startswith(f"{check.name}/")]
        passed = sum(unit["passed"] for unit in units)
        seconds = sum(unit["seconds"] for unit in units)
        lines.append(f"| {check.name} | {check.says} | {passed} | {check.units} | {seconds} |")
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
