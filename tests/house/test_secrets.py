"""S1: no secret lies in the project. What only looks like one is in `secrets.baseline`, by its hash."""

import json
import subprocess
from pathlib import Path

import pytest
from detect_secrets import SecretsCollection
from detect_secrets.settings import transient_settings

ROOT = Path(__file__).resolve().parents[2]
BASELINE = "tests/house/secrets.baseline"
APART = (BASELINE, "requirements.lock", "citybrain/platform/console/static/vendor/")
KNOWN = json.loads((ROOT / BASELINE).read_text())


def found_in(*files):
    """Name and hash of all that looks like a secret."""
    found = SecretsCollection(root=str(ROOT))
    with transient_settings({key: KNOWN[key] for key in ("plugins_used", "filters_used")}):
        for name in files:
            found.scan_file(name)
    return {(name, secret.secret_hash) for name, secret in found}


def test_s1_no_file_of_the_project_holds_a_secret():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("this is no checkout")
    files = [name for name in listed.stdout.splitlines() if not name.startswith(APART)]
    known = {(n, one["hashed_secret"]) for n, some in KNOWN["results"].items() for one in some}
    strange = sorted(name for name, _ in found_in(*files) - known)
    assert not strange, (
        f"What is no secret after all goes in by: detect-secrets scan --baseline {BASELINE}"
    )


def test_a_key_that_somebody_left_would_be_found(tmp_path):
    left = tmp_path / "left.py"
    left.write_text("-----BEGIN " + "PRIVATE KEY-----\naws = 'AKIA" + "QYLPMN5HNM4OVTX3'\n")
    assert len(found_in(str(left))) == 2
