"""Convert versions into other forms, one after another, and keep what came of each."""

from __future__ import annotations

from typing import Any

from citybrain.core.names import Ref
from citybrain.core.schemas import Actor, Conversion, NewConversion, NewEvaluation
from citybrain.platform.evaluations import EvaluationDesk
from citybrain.platform.exam_data import ExamData
from citybrain.platform.job_thread import JobThread
from citybrain.registry.catalogue import Catalogue
from citybrain.registry.forms import Forms
from citybrain.registry.intake import Intake
from citybrain.storage.records.conversions import Conversions


class ConversionDesk(JobThread):
    """Takes conversions in and works them off on a thread."""

    what = "conversion"

    def __init__(
        self, conversions: Conversions, catalogue: Catalogue, intake: Intake, forms: Forms,
        evaluation: EvaluationDesk, data: ExamData,
    ) -> None:  # fmt: skip
        super().__init__()
        self._conversions = conversions
        self._catalogue = catalogue
        self._intake = intake
        self._forms = forms
        self._evaluation = evaluation
        self._data = data

    def ask(self, name: str, target: str, new: NewConversion, actor: Actor) -> Conversion:
        """Queue a conversion, after everything that can be checked at once."""
        version = self._catalogue.resolve(Ref(name, target))
        task = self._catalogue.manifest(name, version).task
        scenario = self._data.scenario_for(name, new.scenario, task)
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
        made, data = version, self._data.of(asked.scenario)
        with self._intake.convert(folder, asked.form, f"{name}@{version}", data) as admitted:
            report = admitted.report
            if asked.form == "onnx":
                self._forms.add(name, version, asked.form, admitted.folder, report)
            else:
                made = self._catalogue.register(
                    admitted.folder, actor, expected=name, report=report
                ).version
        if made != version and asked.scenario:
            report = report | self._loss(asked.scenario, name, version, made, actor)
        self._conversions.done(job, made, report)

    def _loss(
        self, scenario: str, name: str, version: int, made: int, actor: Actor
    ) -> dict[str, Any]:
        """What the form loses in a scenario: each metric of both, examined one after the other.

        The form is a version already, so an exam that fails is told and ends nothing.
        """
        exams = [
            self._evaluation.result(self._evaluation.ask(scenario, new, actor).id)
            for new in (NewEvaluation(algorithm=name, target=str(one)) for one in (version, made))
        ]
        if failed := next((exam for exam in exams if exam.state == "failed"), None):
            return {"unexamined": str(failed.error.get("message", ""))}
        before, after = (exam.report["metrics"] for exam in exams)
        return {
            "loss": {metric: {"before": before[metric], "after": after[metric]} for metric in after}
        }
