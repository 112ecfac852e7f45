"""Convert versions into other forms, one after another, and keep what came of each."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from citybrain.core.errors import BadData, InvalidInput
from citybrain.core.home import Home
from citybrain.core.names import Ref
from citybrain.core.schemas import Actor, Conversion, NewConversion
from citybrain.core.settings import child_environment
from citybrain.evaluation.scenario import find_scenario
from citybrain.platform.job_thread import JobThread
from citybrain.registry.catalogue import Catalogue
from citybrain.registry.forms import Forms
from citybrain.registry.intake import Intake
from citybrain.storage.records.conversions import Conversions
from citybrain.storage.records.evaluations import Evaluations

TIMEOUT = 600.0


class ConversionDesk(JobThread):
    """Takes conversions in and works them off on a thread."""

    what = "conversion"

    def __init__(
        self, conversions: Conversions, catalogue: Catalogue, intake: Intake, forms: Forms,
        evaluations: Evaluations, home: Home,
    ) -> None:  # fmt: skip
        super().__init__()
        self._conversions = conversions
        self._catalogue = catalogue
        self._intake = intake
        self._forms = forms
        self._evaluations = evaluations
        self._home = home

    def ask(self, name: str, target: str, new: NewConversion, actor: Actor) -> Conversion:
        """Queue a conversion, after everything that can be checked at once."""
        version = self._catalogue.resolve(Ref(name, target))
        manifest = self._catalogue.manifest(name, version)
        scenario = new.scenario or self._examined_in(name)
        if new.scenario and (wanted := find_scenario(scenario, self._home.scenarios).task) != (
            manifest.task
        ):
            raise InvalidInput(f"{scenario} examines {wanted}; {name} does {manifest.task}.")
        asked = self._conversions.start(name, version, new.form, scenario, actor)
        self.put(asked.id)
        return asked

    def recover(self) -> list[str]:
        return self._conversions.recover()

    def fail(self, job: str, code: str, message: str, hint: str = "") -> None:
        self._conversions.failed(job, code, message, hint)

    def run(self, job: str) -> None:
        asked, actor = self._conversions.get(job), self._conversions.asker(job)
        name, version = asked.algorithm, asked.version
        self._conversions.running(job)
        folder, _ = self._catalogue.folder(name, version)
        if asked.form == "int8":  # an ONNX form is what there is to make smaller
            folder = self._forms.onnx_folder(name, version) or folder
        with tempfile.TemporaryDirectory(dir=self._home.work, prefix="samples-") as work:
            samples = self._samples(asked.scenario, folder, Path(work) / "samples")
            parent = f"{name}@{version}"
            with self._intake.convert(folder, asked.form, parent, samples) as admitted:
                made, report = version, admitted.report
                if asked.form == "onnx":
                    self._forms.add(name, version, asked.form, admitted.folder, report)
                else:
                    made = self._catalogue.register(
                        admitted.folder, actor, expected=name, report=report
                    ).version
        self._conversions.done(job, made, report)

    def _examined_in(self, name: str) -> str:
        """The scenario of the algorithm's newest exam on the scenario's own data."""
        exams = self._evaluations.find(algorithm=name, state="done", limit=20)
        return next((exam.scenario for exam in exams if not exam.data), "")

    def _samples(self, scenario: str, folder: Path, out: Path) -> Path | None:
        """Real samples of a scenario; none without one."""
        if not scenario:
            return None
        job = {"scenario": scenario, "scenarios": str(self._home.scenarios),
               "folder": str(folder), "out": str(out)}  # fmt: skip
        with (self._home.logs / "evaluations.log").open("a") as errors:
            done = subprocess.run(
                [sys.executable, "-P", "-m", "citybrain.platform.workers.samples"], stderr=errors,
                input=json.dumps(job), text=True, timeout=TIMEOUT, check=False,
                env=child_environment({}), cwd=self._home.root,
            )  # fmt: skip
        if done.returncode:
            raise BadData(
                f"The samples of {scenario} could not be made.",
                hint="The reason is in logs/evaluations.log of the home.",
            )
        return out
