"""The tutorial of a department's first call works as it stands, in both languages, in two minutes."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ("first-call.md", "first-call.zh-CN.md")


def commands(page):
    return "\n".join(re.findall(r"```bash\n(.*?)```", (DOCS / page).read_text(), re.S))


def test_both_languages_have_the_same_commands():
    assert commands(PAGES[0]) == commands(PAGES[1])


@pytest.mark.platform
def test_a_departments_first_call(platform, tmp_path):
    environment = {
        **os.environ, "CITYBRAIN_HOME": str(platform.home.root), "CITYBRAIN_URL": platform.url,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "200",
    }  # fmt: skip
    begin = time.monotonic()
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands(PAGES[0])], cwd=tmp_path, env=environment,
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    print(done.stdout, f"{time.monotonic() - begin:.0f} seconds", sep="\n")
    assert done.returncode == 0, done.stderr
    assert "crowd-level" in done.stdout
    assert "level" in (tmp_path / "answer.json").read_text()
