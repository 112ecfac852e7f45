"""The data that an algorithm is examined on, for conversions to be compared on."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from citybrain.core.errors import BadData, InvalidInput
from citybrain.core.home import Home
from citybrain.core.settings import child_environment
from citybrain.evaluation.scenario import find_scenario
from citybrain.registry.admission.admit import NO_DATA, Data
from citybrain.storage.records.evaluations import Evaluations

TIMEOUT = 600.0


class ExamData:
    """Finds the scenario of an algorithm, and generates its data when they are asked for."""

    def __init__(self, evaluations: Evaluations, home: Home) -> None:
        self._evaluations = evaluations
        self._home = home

    def scenario_for(self, name: str, wanted: str, task: str) -> str:
        """The scenario that is wanted, else that of the algorithm's newest exam on the scenario's own data.

        Empty without either. InvalidInput for one of another task; `task` is empty where it is not known.
        """
        if not wanted:
            exams = self._evaluations.find(algorithm=name, state="done", limit=20)
            return next((exam.scenario for exam in exams if not exam.data), "")
        examines = find_scenario(wanted, self._home.scenarios).task
        if task and examines != task:
            raise InvalidInput(f"{wanted} examines {examines}; {name} does {task}.")
        return wanted

    def of(self, scenario: str) -> Data:
        """The data of a scenario, generated on entering; none without one."""
        return partial(self._generated, scenario) if scenario else NO_DATA

    @contextmanager
    def _generated(self, scenario: str) -> Iterator[Path | None]:
        with tempfile.TemporaryDirectory(dir=self._home.work, prefix="data-") as work:
            job = {"scenario": scenario, "scenarios": str(self._home.scenarios), "out": work}
            with (self._home.logs / "evaluations.log").open("a") as errors:
                done = subprocess.run(
                    [sys.executable, "-P", "-m", "citybrain.platform.workers.dataset"],
                    input=json.dumps(job), stdout=subprocess.PIPE, stderr=errors, text=True,
                    timeout=TIMEOUT, check=False, env=child_environment({}), cwd=self._home.root,
                )  # fmt: skip
            found = json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {}
            if not (path := found.get("path")):
                raise BadData(
                    f"The data of {scenario} could not be had. {found.get('problem', '')}".strip(),
                    hint="More is in logs/evaluations.log of the home.",
                )
            yield Path(path)
