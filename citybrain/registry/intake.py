"""Intake: whatever a developer has becomes a version, or a refusal that says how to mend it."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from citybrain.core.errors import InvalidInput, Overloaded
from citybrain.core.home import Home
from citybrain.core.schemas import Actor, Version
from citybrain.core.settings import IntakeSettings
from citybrain.models.package import check_card
from citybrain.registry.admission.admit import NO_DATA, Admitted, Data, admit
from citybrain.registry.admission.samples import put_data
from citybrain.registry.catalogue import Catalogue
from citybrain.registry.facts import usual_words
from citybrain.registry.sandbox import Limits, run_isolated
from citybrain.registry.sources import fetch

AT_ONCE = 2
UPLOADS = 16
"""Those that are examined and those that wait for it; each holds a thread and its files."""
STEPS = {
    "onnx": "citybrain.registry.admission.converting:convert",
    "int8": "citybrain.registry.admission.quantizing:quantize",
}


class Intake:
    """Fetch, admit in the sandbox, register. Two sandboxes at once; some wait, more are refused."""

    def __init__(self, catalogue: Catalogue, home: Home, settings: IntakeSettings) -> None:
        self._catalogue = catalogue
        self._home = home
        self._settings = settings
        self._limits = Limits(settings.seconds, settings.memory, settings.disk)
        self._slots = threading.Semaphore(AT_ONCE)
        self._uploads = threading.Semaphore(UPLOADS)

    def take(
        self, source: Path | str, actor: Actor, *, card: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None, expected: str = "", data: Data = NO_DATA,
    ) -> Version:  # fmt: skip
        """Register a file, a folder or an address as the next version of its algorithm.

        `card` holds the fields of `algorithm.yaml` where the source brings none, and `architecture`;
        what is about the algorithm more than its weights is as it was, where nobody says it.
        `expected` is the name that the caller believes to register; on `data` a source that has to be
        converted is compared with what it became.
        """
        check_card(card or {})
        with self._upload() as work:
            told = dict(card or {})
            if expected:
                told["name"] = expected
            if isinstance(source, str):
                source, found = fetch(
                    source, work / "fetched", self._catalogue.client, self._settings
                )
                told = found | told
            usual = usual_words(self._catalogue, str(told.get("name", "")))
            admitted = self.admit(source, work / "admitted", told, usual, data)
            return self._catalogue.register(
                admitted.folder, actor, metrics=metrics, expected=expected, report=admitted.report
            )

    @contextmanager
    def _upload(self) -> Iterator[Path]:
        """A place among the uploads, with a folder to work in; Overloaded where all are taken."""
        if not self._uploads.acquire(blocking=False):
            raise Overloaded(
                f"{UPLOADS} uploads are being examined already.", hint="Repeat in a minute."
            )
        try:
            with tempfile.TemporaryDirectory(
                dir=self._home.work, prefix="intake-", ignore_cleanup_errors=True
            ) as work:
                yield Path(work)
        finally:
            self._uploads.release()

    @contextmanager
    def convert(
        self, folder: Path, form: str, parent: str, data: Data = NO_DATA
    ) -> Iterator[Admitted]:
        """Another form of an admitted package, admitted as any upload; removed on leaving.

        It is compared with its source on samples of `data`, besides the task's example.
        """
        with tempfile.TemporaryDirectory(dir=self._home.work, prefix=f"{form}-") as work:
            job = Path(work) / "convert"
            shutil.copytree(folder, job / "in")
            with data() as found:
                if found is not None:
                    put_data(found, job)
            with self._slots:
                told = run_isolated(STEPS[form], job, {"parent": parent}, limits=self._limits)
            admitted = self.admit(job / "out", Path(work) / "admitted", {})
            yield Admitted(admitted.folder, {**admitted.report, **told})

    def admit(
        self, source: Path, work: Path, card: Mapping[str, Any],
        usual: Mapping[str, Any] | None = None, data: Data = NO_DATA,
    ) -> Admitted:  # fmt: skip
        """Admission alone, for versions that plain MLflow registered."""
        if not source.exists():
            raise InvalidInput(f"{source.name} does not exist.")
        with self._slots:
            return admit(source, work, dict(card), self._limits, usual=dict(usual or {}), data=data)
