"""Other forms of a version, beside its source: kept, vouched for, and chosen when it is served.

A form answers as its source does (within 1e-3, or it is none), so it needs no gate and no number of
its own: callers see the version, replicas load whichever form is fastest. What answers differently
(INT8) is a version of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from citybrain.core.errors import DigestMismatch
from citybrain.core.schemas import Form, Version
from citybrain.core.signatures import SOURCE, check
from citybrain.models.package import Manifest, Package, folder_digest
from citybrain.registry.catalogue import SIGNED, Catalogue
from citybrain.registry.runs import FORM, FORMS, forms_in, read_json
from citybrain.registry.tracker import run_folder


@dataclass(frozen=True)
class Served:
    """What replicas of a version load."""

    form: str
    """`source`, or the kind of the form."""
    folder: Path
    digest: str
    statement: str
    manifest: Manifest


class Forms:
    """The forms of versions, in MLflow beside the packages that they were made from."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._chosen: dict[tuple[str, int], tuple[int, Served]] = {}

    def add(
        self, name: str, version: int, kind: str, folder: Path, report: Mapping[str, Any]
    ) -> None:
        """Keep an admitted form; from the one write of its tag on, it exists."""
        catalogue, digest = self._catalogue, folder_digest(folder)
        with catalogue.lock:
            catalogue.store(folder, digest)
            run_id = catalogue.run_of(name, version)
            catalogue.client.log_artifacts(run_id, str(folder), f"{FORMS}/{kind}")
            catalogue.client.log_dict(run_id, dict(report), f"{FORMS}/{kind}.json")
            before, after = report["speed"]
            told = {
                "digest": digest, "milliseconds": after, "source_milliseconds": before,
                "serving": Package.open(folder).manifest.serving,
                "signed": catalogue.signers.sign(name, version, digest, kind),
            }  # fmt: skip
            catalogue.client.set_model_version_tag(
                name, str(version), FORM + kind, json.dumps(told)
            )

    def served(self, name: str, version: int, revision: int) -> Served:
        """What replicas of a version load; asked often, so remembered until something changed.

        `revision` is the database's: it grows whenever a form is added.
        """
        known = self._chosen.get((name, version))
        if known is None or known[0] != revision:
            known = (revision, self._choose(name, version))
            self._chosen[name, version] = known
        return known[1]

    def onnx_folder(self, name: str, version: int) -> Path | None:
        """The local copy of a version's ONNX form, if it has one."""
        found = self._catalogue.client.get_model_version(name, str(version))
        for form in forms_in(found.tags):
            if form.kind == "onnx":
                return self._form(found, form).folder
        return None

    def admission(self, version: Version) -> dict[str, Any]:
        """What admission saw of a version, and under `forms` how each form of it was made."""
        name, number = version.algorithm, version.version
        report = self._catalogue.report(name, number)
        if version.forms:
            run = self._catalogue.run_of(name, number)
            report["forms"] = {
                form.kind: read_json(self._catalogue.client, run, f"{FORMS}/{form.kind}.json")
                | {"served": form.served}
                for form in version.forms
            }
        return report

    def _choose(self, name: str, version: int) -> Served:
        folder, digest = self._catalogue.folder(name, version)
        manifest = Package.open(folder).manifest
        found = self._catalogue.client.get_model_version(name, str(version))
        for form in forms_in(found.tags):
            if form.served:
                return self._form(found, form)
        statement = str(found.tags.get(SIGNED, ""))
        return Served(SOURCE, folder, digest, statement, manifest)

    def _form(self, found: Any, form: Form) -> Served:
        """A local copy of a form that a trusted signer vouches for."""
        catalogue, name, version = self._catalogue, str(found.name), int(found.version)
        statement = str(json.loads(found.tags[FORM + form.kind])["signed"])
        check(statement, name, version, form.digest, catalogue.signers.trusted(), form.kind)
        folder = catalogue.stored(form.digest)
        if folder is None:
            source = run_folder(
                catalogue.client, catalogue.run_of(name, version), f"{FORMS}/{form.kind}"
            )
            if folder_digest(source) != form.digest:
                raise DigestMismatch(
                    f"The {form.kind} form of {name}@{version} is not the one that was admitted.",
                    hint=f"Make it again: citybrain convert {name}@{version} --to {form.kind}",
                )
            folder = catalogue.store(source, form.digest)
        return Served(form.kind, folder, form.digest, statement, Package.open(folder).manifest)
