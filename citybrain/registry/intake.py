"""Intake: whatever a developer has becomes a version, or a refusal that says how to mend it."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from citybrain.core.errors import InvalidInput
from citybrain.core.home import Home
from citybrain.core.schemas import Actor, Version
from citybrain.core.settings import IntakeSettings
from citybrain.registry.admission.admit import Admitted, admit
from citybrain.registry.catalogue import Catalogue
from citybrain.registry.sandbox import Limits, run_isolated
from citybrain.registry.sources import fetch

AT_ONCE = 2
QUANTIZE = "citybrain.registry.admission.quantizing:quantize"


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

        `card` holds the fields of `algorithm.yaml` that the source does not bring, and
        `architecture`. `expected` is the name that the caller believes to register.
        """
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
            admitted = self.admit(source, work / "admitted", told)
            return self._catalogue.register(
                admitted.folder, actor, metrics=metrics, expected=expected, report=admitted.report
            )
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def to_int8(self, name: str, version: int, actor: Actor) -> Version:
        """A version's INT8 form as the next version, beside it; its gate decides what it is worth."""
        folder, _ = self._catalogue.folder(name, version)
        size = self._catalogue.manifest(name, version).options.get("image_size", 8)
        request = {"parent": f"{name}@{version}", "free_size": size if isinstance(size, int) else 8}
        with tempfile.TemporaryDirectory(dir=self._home.work, prefix="int8-") as work:
            shutil.copytree(folder, Path(work) / "quantize" / "in")
            with self._slots:
                told = run_isolated(QUANTIZE, Path(work) / "quantize", request, limits=self._limits)
            admitted = self.admit(Path(work) / "quantize" / "out", Path(work) / "admitted", {})
            return self._catalogue.register(
                admitted.folder, actor, expected=name, report={**admitted.report, **told}
            )

    def admit(self, source: Path, work: Path, card: Mapping[str, Any]) -> Admitted:
        """Admission alone, for versions that plain MLflow registered."""
        if not source.exists():
            raise InvalidInput(f"{source.name} does not exist.")
        with self._slots:
            return admit(source, work, dict(card), self._limits)
