"""Intake: whatever a developer has becomes a version, or a refusal that says how to mend it."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from citybrain.core.errors import InvalidInput
from citybrain.core.home import Home
from citybrain.core.schemas import Actor, Version
from citybrain.core.settings import IntakeSettings
from citybrain.models.package import check_card
from citybrain.registry.admission.admit import Admitted, admit
from citybrain.registry.catalogue import Catalogue
from citybrain.registry.facts import usual_words
from citybrain.registry.sandbox import Limits, run_isolated
from citybrain.registry.sources import fetch

AT_ONCE = 2
STEPS = {
    "onnx": "citybrain.registry.admission.converting:convert",
    "int8": "citybrain.registry.admission.quantizing:quantize",
}


class Intake:
    """Fetch, admit in the sandbox, register. At most two sandboxes at once; others wait."""

    def __init__(self, catalogue: Catalogue, home: Home, settings: IntakeSettings) -> None:
        self._catalogue = catalogue
        self._home = home
        self._settings = settings
        self._limits = Limits(settings.seconds, settings.memory, settings.disk)
        self._slots = threading.Semaphore(AT_ONCE)

    def take(
        self, source: Path | str, actor: Actor, *, card: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None, expected: str = "",
    ) -> Version:  # fmt: skip
        """Register a file, a folder or an address as the next version of its algorithm.

        `card` holds the fields of `algorithm.yaml` where the source brings none, and `architecture`;
        what is about the algorithm more than its weights is as it was, where nobody says it.
        `expected` is the name that the caller believes to register.
        """
        check_card(card or {})
        work = Path(tempfile.mkdtemp(dir=self._home.work, prefix="intake-"))
        try:
            told = dict(card or {})
            if expected:
                told["name"] = expected
            if isinstance(source, str):
                source, found = fetch(
                    source, work / "fetched", self._catalogue.client, self._settings
                )
                told = found | told
            usual = usual_words(self._catalogue, str(told.get("name", "")))
            admitted = self.admit(source, work / "admitted", told, usual)
            return self._catalogue.register(
                admitted.folder, actor, metrics=metrics, expected=expected, report=admitted.report
            )
        finally:
            shutil.rmtree(work, ignore_errors=True)

    @contextmanager
    def convert(
        self, folder: Path, form: str, parent: str, samples: Path | None = None
    ) -> Iterator[Admitted]:
        """Another form of an admitted package, admitted as any upload; removed on leaving.

        `samples` (written by `write_samples`) are what it is compared with its source on, besides
        the task's example.
        """
        with tempfile.TemporaryDirectory(dir=self._home.work, prefix=f"{form}-") as work:
            job = Path(work) / "convert"
            shutil.copytree(folder, job / "in")
            if samples is not None:
                shutil.copytree(samples, job / "samples")
            with self._slots:
                told = run_isolated(STEPS[form], job, {"parent": parent}, limits=self._limits)
            admitted = self.admit(job / "out", Path(work) / "admitted", {})
            yield Admitted(admitted.folder, {**admitted.report, **told})

    def admit(
        self, source: Path, work: Path, card: Mapping[str, Any],
        usual: Mapping[str, Any] | None = None,
    ) -> Admitted:  # fmt: skip
        """Admission alone, for versions that plain MLflow registered."""
        if not source.exists():
            raise InvalidInput(f"{source.name} does not exist.")
        with self._slots:
            return admit(source, work, dict(card), self._limits, usual=dict(usual or {}))
