"""`python -m citybrain.platform.workers.evaluation`: one evaluation, a JSON job on stdin.

Prints JSON lines: `{"share", "text"}` while it works, then `{"report"}` or `{"error"}`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from citybrain.core.errors import BadData, CityBrainError
from citybrain.core.settings import QUIET_LIBRARIES, put_environment
from citybrain.evaluation.evaluator import evaluate
from citybrain.evaluation.scenario import Scenario, find_scenario
from citybrain.models.package import data_digest
from citybrain.models.predictor import Predictor
from citybrain.models.recipe import RECIPES


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Open the version (and the champion), read the data, evaluate."""
    scenario = find_scenario(job["scenario"], Path(job["scenarios"]))
    predictor = Predictor.open(Path(job["folder"]), digest=job["digest"], threads=2)
    if predictor.package.manifest.task != scenario.task:
        raise BadData(
            f"{scenario.name} examines {scenario.task}; this algorithm does "
            f"{predictor.package.manifest.task}."
        )
    champion = None
    if job.get("champion_folder") and job["champion_folder"] != job["folder"]:
        champion = Predictor.open(Path(job["champion_folder"]), digest=job["champion_digest"])
    with tempfile.TemporaryDirectory() as work:
        data = data_of(scenario, job["data"], Path(work))
        digest = data_digest(data)
        samples = predictor.task.samples(data)
        report = evaluate(scenario, predictor, samples, champion=champion, progress=_tell)
    return report | {"dataset_digest": digest, "data": job["data"] or "scenario"}


def data_of(scenario: Scenario, path: str, work: Path) -> Path:
    """The data to examine on: a given path, the scenario's path, or freshly generated."""
    if path or scenario.data.path:
        found = Path(path or scenario.data.path or "").expanduser()
        if not found.exists():
            raise BadData(f"There is no data at {found.name}.", hint="Give an existing path.")
        return found
    assert scenario.data.recipe is not None
    recipe = RECIPES.get(scenario.data.recipe)
    return recipe.generate(work, seed=scenario.data.seed, part="test")


def _tell(share: float, text: str) -> None:
    print(json.dumps({"share": round(share, 3), "text": text}), flush=True)


def main() -> None:
    """Read the job, work, print the result."""
    put_environment(QUIET_LIBRARIES)
    job = json.load(sys.stdin)
    try:
        result: dict[str, Any] = {"report": run(job)}
    except CityBrainError as error:
        result = {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
