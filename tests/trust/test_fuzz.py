"""What reads a stranger's tensors, under bytes that are led by what they reach in the code."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FULL = "TRUST_FULL" in os.environ
SEED = os.environ.get("FUZZ_SEED", "1")
RUNS = 1_000_000 if FULL else 20_000
REACHED = {"binary": 100, "message": 60}
"""Edges of the code that a run covers at least, or it did not get behind the first checks."""

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        importlib.util.find_spec("atheris") is None,
        reason="atheris is not installed: make trust does it",
    ),
]


@pytest.mark.parametrize("target", REACHED)
def test_no_bytes_crash_a_decoder_or_cost_more_memory_than_they_pay_for(target, tmp_path):
    """20,000 inputs a decoder in `make test`; 1,000,000 in `make trust`."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    words = [f"-runs={RUNS}", f"-seed={SEED}", "-rss_limit_mb=2048", "-timeout=20", "-max_len=8192"]
    script = Path(__file__).with_name("fuzz.py")
    done = subprocess.run(
        [sys.executable, "-P", str(script), target, str(corpus), *words],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    runs, cover = re.search(r"#(\d+)\s+DONE\s+cov: (\d+)", done.stderr).groups()
    print(f"{target}: {runs} inputs, {cover} edges")
    assert int(runs) >= RUNS
    assert int(cover) >= REACHED[target]
