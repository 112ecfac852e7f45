"""A built wheel holds what runs: installed outside the clone it migrates, scans and shows pages."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROBE = """
import citybrain, pathlib, sys, tempfile
assert not str(pathlib.Path(citybrain.__file__)).startswith(sys.argv[1]), citybrain.__file__
from citybrain.storage.database import Database
home = pathlib.Path(tempfile.mkdtemp())
database = Database.at(home / "platform.db"); database.migrate()
assert database.revision() == 1
from citybrain.evaluation.scenario import scenarios
from citybrain.models.recipe import RECIPES
from citybrain.models.task import TASKS
print(len(scenarios()), len(RECIPES.names()), len(TASKS.names()))
"""


def test_the_wheel_works_outside_the_clone(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT],
        check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("citybrain-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for part in ("migrations/versions/0001", "evaluation/scenarios/scenic-crowd.yaml",
                 "console/templates/", "console/static/vendor/", "static/"):  # fmt: skip
        assert any(part in name for name in names), part
    assert not [name for name in names if name.startswith("tests/")]
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(ROOT)], cwd=tmp_path, capture_output=True, text=True,
        env={"PYTHONPATH": str(site), "PATH": ""}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["5", "5", "9"]
