"""Run evaluations one after another, each in a process of its own, and keep their reports."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from typing import Any

from citybrain.core.errors import CityBrainError
from citybrain.core.home import Home
from citybrain.core.names import Ref
from citybrain.core.schemas import Actor, Evaluation, NewEvaluation
from citybrain.core.settings import child_environment
from citybrain.evaluation.scenario import find_scenario
from citybrain.platform.job_thread import JobThread
from citybrain.registry.catalogue import Catalogue
from citybrain.storage.records.evaluations import Evaluations

TIMEOUT = 3600.0
LOOK_SECONDS = 0.5


class EvaluationDesk(JobThread):
    """Takes evaluations in and works them off on a thread."""

    what = "evaluation"

    def __init__(self, evaluations: Evaluations, catalogue: Catalogue, home: Home) -> None:
        super().__init__()
        self._evaluations = evaluations
        self._catalogue = catalogue
        self._home = home
        self._child: subprocess.Popen[str] | None = None

    def recover(self) -> list[str]:
        self._evaluations.fail_interrupted()
        return []

    def close(self) -> None:
        """End the evaluation that runs."""
        if self._child is not None:
            self._child.kill()

    def ask(self, scenario_name: str, new: NewEvaluation, actor: Actor) -> Evaluation:
        """Queue an evaluation of a version, after everything that can be checked at once."""
        scenario = find_scenario(scenario_name, self._home.scenarios)
        version = self._catalogue.resolve(Ref(new.algorithm, new.target))
        self._catalogue.folder(new.algorithm, version)
        asked = self._evaluations.start(scenario.name, new.algorithm, version, new.data, actor)
        self.put(asked.id)
        return asked

    def result(self, evaluation_id: str) -> Evaluation:
        """An evaluation that was asked for, when it is done or failed; others may be done before it."""
        while (found := self._evaluations.get(evaluation_id)).state not in ("done", "failed"):
            time.sleep(LOOK_SECONDS)
        return found

    def fail(self, job: str, code: str, message: str, hint: str = "") -> None:
        error = {"code": code, "message": message, "hint": hint}
        self._evaluations.change(job, state="failed", error=error)

    def run(self, job: str) -> None:
        asked = self._evaluations.get(job)
        folder, digest = self._catalogue.folder(asked.algorithm, asked.version)
        told: dict[str, Any] = {
            "scenario": asked.scenario, "scenarios": str(self._home.scenarios),
            "folder": str(folder), "digest": digest, "data": asked.data,
        }  # fmt: skip
        champion = self._catalogue.algorithm(asked.algorithm).aliases.get("champion")
        if champion and champion != asked.version:
            told["champion_folder"], told["champion_digest"] = map(
                str, self._catalogue.folder(asked.algorithm, champion)
            )
        self._evaluations.change(asked.id, state="running")
        result = self._child_result(asked.id, told)
        if "error" in result:
            error = result["error"]
            self.fail(asked.id, error["code"], error["message"], error["hint"])
            return
        report = result["report"]
        values = {name: found["value"] for name, found in report["metrics"].items()}
        self._catalogue.log_metrics(asked.algorithm, asked.version, asked.scenario, values)
        self._evaluations.change(
            asked.id, state="done", progress=1.0, passed=report["passed"], report=report
        )

    def _child_result(self, evaluation_id: str, job: dict[str, Any]) -> dict[str, Any]:
        command = [sys.executable, "-P", "-m", "citybrain.platform.workers.evaluation"]
        with (self._home.logs / "evaluations.log").open("a") as errors:
            child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                env=child_environment({}), cwd=self._home.root,
            )  # fmt: skip
            self._child = child
            timer = threading.Timer(TIMEOUT, child.kill)
            timer.start()
            result: dict[str, Any] = {}
            try:
                assert child.stdin and child.stdout
                child.stdin.write(json.dumps(job))
                child.stdin.close()
                shown = 0.0
                for line in child.stdout:
                    found = json.loads(line)
                    if "share" not in found:
                        result = found
                    elif found["share"] >= shown + 0.05:
                        shown = found["share"]
                        self._evaluations.change(evaluation_id, progress=shown)
            finally:
                child.stdout.close() if child.stdout else None
                child.wait()
                timer.cancel()
                self._child = None
        if not result:
            raise CityBrainError(
                "The evaluation's process ended without a report.",
                hint="The reason is in logs/evaluations.log of the home.",
            )
        return result
