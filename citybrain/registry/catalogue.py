"""The catalogue: register a package as a version in MLflow, list what there is, fetch a version.

MLflow is the truth for versions, parameters, metrics and artifacts. Replicas load from
`HOME/packages/<digest>`, a verified copy that can be made again from MLflow's artifacts.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import tempfile
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from citybrain.core.errors import (
    AlgorithmNotFound,
    BadPackage,
    DigestMismatch,
    InvalidInput,
    NotAllowed,
    VersionNotFound,
)
from citybrain.core.home import Home
from citybrain.core.names import Ref
from citybrain.core.schemas import Actor, Algorithm, Version
from citybrain.core.signatures import check
from citybrain.models.package import Manifest, Package, folder_digest
from citybrain.models.task import open_task
from citybrain.registry.facts import algorithm_of, check_same_question, describe
from citybrain.registry.runs import DIGEST, PACKAGE, forms_in, log_package, read_report
from citybrain.registry.signing import Signers
from citybrain.registry.tracker import open_client, run_folder, run_of
from citybrain.storage.records.history import History
from citybrain.storage.records.verdicts import UNDECIDED, Verdict, Verdicts

SOURCE, PROBLEM, SIGNED = (f"citybrain.{name}" for name in ("source", "problem", "signed"))
CHALLENGER, CHAMPION = "challenger", "champion"


class Catalogue:
    """Versions in MLflow, governed by the history in the platform database."""

    def __init__(self, home: Home, history: History, verdicts: Verdicts, *, approval: str) -> None:
        self._home = home
        self._history = history
        self._verdicts = verdicts
        self._approval = approval
        self.signers = Signers(home)
        self.lock = threading.RLock()
        self.client: Any = open_client(home.mlflow)

    def register(
        self, folder: Path, actor: Actor, *, metrics: Mapping[str, float] | None = None,
        expected: str = "", report: Mapping[str, Any] | None = None,
    ) -> Version:  # fmt: skip
        """Make an admitted folder the next version and the challenger.

        Order matters for a kill in between: artifacts first, then the version (which carries its
        digest from its first moment), then the platform's note. What stops before the version
        leaves nothing that can be called; what stops before the note is noted by the projection.
        """
        package = Package.open(folder)
        manifest = package.manifest
        if expected and manifest.name != expected:
            raise InvalidInput(f"The folder holds {manifest.name}, not {expected[:80]}.")
        self.check_owner(manifest.name, manifest.owner, actor)
        open_task(manifest, folder)  # the options must fit the task
        digest = folder_digest(folder)
        with self.lock:
            check_same_question(self, manifest)
            self.store(folder, digest)
            self.ensure_algorithm(manifest.name)
            run_id = log_package(
                self.client, self._home.mlflow, folder, manifest, digest,
                metrics=metrics or {}, report=report or {},
            )  # fmt: skip
            created = self.client.create_model_version(
                manifest.name, f"runs:/{run_id}/package", run_id,
                tags={DIGEST: digest, SOURCE: "package"},
            )  # fmt: skip
            self.note(manifest, int(created.version), digest, actor, run_id)
        return self.version(Ref(manifest.name, str(created.version)))

    def check_owner(self, name: str, stated: str, actor: Actor) -> None:
        """Refuse a version that names another owner than its algorithm's, or is of a stranger."""
        owner = self._history.algorithms().get(name, (stated, ""))[0]
        if owner != stated:
            raise InvalidInput(f"{name} belongs to {owner}; this version says {stated[:63]}.")
        if actor.role != "admin" and actor.department != owner:
            raise NotAllowed(f"{name} belongs to {owner}, not to {actor.department}.")

    def ensure_algorithm(self, name: str) -> None:
        """Make the registered model; what it says of itself follows with its first version."""
        if self.registered(name) is None:
            self.client.create_registered_model(name)

    def speaker(self, name: str) -> int:
        """The version that speaks for an algorithm: the champion, else the newest usable; 0: none."""
        if champion := self._history.aliases(name).get(name, {}).get(CHAMPION):
            return champion
        closed, verdicts = self._history.closed(name), self._verdicts.all(name)
        return max(
            (version for (_, version), verdict in verdicts.items()
             if verdict.digest and closed.get(version) != "withdrawn"), default=0,
        )  # fmt: skip

    def note(
        self, manifest: Manifest, version: int, digest: str, actor: Actor, run_id: str
    ) -> None:
        """The platform's part of a registration: audit, owner, `challenger`, signature."""
        name = manifest.name
        self._history.note_version(
            name, version, manifest.owner, self._approval, actor, digest, run_id
        )
        before = self._history.aliases(name).get(name, {}).get(CHALLENGER, 0)
        self._history.move(
            name, CHALLENGER, version, expected=before, reason="registered", actor=actor
        )
        self.sign(name, version, digest)
        describe(self, name)

    def sign(self, name: str, version: int, digest: str) -> None:
        """Vouch for a version's files, with the key that signs now."""
        signed = self.signers.sign(name, version, digest)
        self.client.set_model_version_tag(name, str(version), SIGNED, signed)

    def stored(self, digest: str) -> Path | None:
        """The private copy of an admitted package, when it lies here."""
        target = self._home.packages / digest
        return target if digest and target.is_dir() else None

    def store(self, folder: Path, digest: str) -> Path:
        """A private copy under its digest; written beside and renamed, so never half there."""
        if known := self.stored(digest):
            return known
        target = self._home.packages / digest
        temporary = Path(tempfile.mkdtemp(dir=self._home.packages, prefix=".new-"))
        try:
            shutil.copytree(folder, temporary / "package", symlinks=True)
            if folder_digest(temporary / "package") != digest:
                raise DigestMismatch("The folder changed while it was read.")
            (temporary / "package").rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return target

    def folder(self, name: str, version: int) -> tuple[Path, str]:
        """A local copy of a version that a trusted signer vouches for, and its digest."""
        found, verdict = self._model_version(name, version), self._verdicts.of(name, version)
        if verdict.problem:
            raise BadPackage(f"{name}@{version} was not taken in: {verdict.problem}")
        if not verdict.digest:
            raise VersionNotFound(f"{name}@{version} is being taken in.", hint="Repeat shortly.")
        digest = found.tags.get(DIGEST, "")
        check(found.tags.get(SIGNED, ""), name, version, digest, self.signers.trusted())
        if known := self.stored(digest):
            return known, digest
        with self.lock:
            source = run_folder(self.client, verdict.run or found.run_id, PACKAGE)
            if folder_digest(source) != digest:
                raise DigestMismatch(
                    f"The artifacts of {name}@{version} are not those that were registered.",
                    hint="Restore them from a backup, or register the folder again.",
                )
            return self.store(source, digest), digest

    def algorithms(self) -> list[Algorithm]:
        """Every algorithm of the catalogue, by name."""
        governed, aliases = self._history.algorithms(), self._history.aliases()
        found = [
            algorithm_of(model, governed[model.name], aliases.get(model.name, {}))
            for model in self.client.search_registered_models(max_results=1000)
            if model.name in governed
        ]
        return sorted(found, key=lambda item: item.name)

    def algorithm(self, name: str) -> Algorithm:
        """One algorithm, or AlgorithmNotFound."""
        model, governed = self.registered(name), self._history.algorithms()
        if model is None or name not in governed:
            away = [v.problem for v in self._verdicts.all(name).values()] if model else []
            raise AlgorithmNotFound(
                f"No algorithm is called {name[:80]!r}.",
                hint=f"MLflow's was not taken in: {away[-1]}" if away and away[-1]
                else "List them: citybrain algorithms",
            )  # fmt: skip
        return algorithm_of(model, governed[name], self._history.aliases(name).get(name, {}))

    def versions(self, name: str) -> list[Version]:
        """All versions of an algorithm, newest first."""
        self.algorithm(name)
        aliases = self._history.aliases(name).get(name, {})
        verdicts = self._verdicts.all(name)
        versions = [
            self._version(found, aliases, verdicts.get((name, int(found.version)), UNDECIDED))
            for found in self.client.search_model_versions(f"name='{name}'")
        ]
        return sorted(versions, key=lambda item: -item.version)

    def version(self, ref: Ref) -> Version:
        """The version behind `name`, `name@alias` or `name@7`; without a target the newest."""
        number = self.resolve(ref)
        aliases = self._history.aliases(ref.algorithm).get(ref.algorithm, {})
        found = self._model_version(ref.algorithm, number)
        return self._version(found, aliases, self._verdicts.of(ref.algorithm, number))

    def resolve(self, ref: Ref) -> int:
        """The version number behind a reference."""
        algorithm = self.algorithm(ref.algorithm)
        if ref.version is not None:
            return int(self._model_version(ref.algorithm, ref.version).version)
        if not ref.target:
            return algorithm.aliases.get(CHALLENGER) or algorithm.latest
        if ref.target not in algorithm.aliases:
            known = ", ".join(sorted(algorithm.aliases)) or "none"
            raise VersionNotFound(
                f"{ref.algorithm} has no alias {ref.target!r}.",
                hint=f"Aliases: {known}.",
            )
        return algorithm.aliases[ref.target]

    def pointed(self, ref: Ref) -> int:
        """Like `resolve` for an alias or a number, from the history alone: cheap, asked often."""
        if ref.version is not None:
            return ref.version
        version = self._history.aliases(ref.algorithm).get(ref.algorithm, {}).get(ref.target, 0)
        if not version:
            raise VersionNotFound(
                f"{ref.algorithm} has no alias {ref.target!r} yet.",
                hint=f"Promote a version first: citybrain promote {ref.algorithm}",
            )
        return version

    def report(self, name: str, version: int) -> dict[str, Any]:
        """What admission saw of a version: kind, conversion, parity, speed, scan."""
        return read_report(self.client, self.run_of(name, version))

    def run_of(self, name: str, version: int) -> str:
        """The run that holds a version's package: admission's own, where it made one."""
        return str(
            self._verdicts.of(name, version).run or self._model_version(name, version).run_id
        )

    def manifest(self, name: str, version: int) -> Manifest:
        """The manifest of a version."""
        folder, _ = self.folder(name, version)
        return Package.open(folder).manifest

    def log_metrics(self, name: str, version: int, prefix: str, values: dict[str, float]) -> None:
        """Write an evaluation's figures to the platform's run of the version."""
        found = self._model_version(name, version)
        if run_id := self._verdicts.of(name, version).run or found.run_id:
            for metric, value in values.items():
                self.client.log_metric(run_id, f"{prefix}.{metric}", value)

    def registered(self, name: str) -> Any:
        """MLflow's registered model, or None."""
        with contextlib.suppress(Exception):
            return self.client.get_registered_model(name)
        return None

    def _model_version(self, name: str, version: int) -> Any:
        try:
            return self.client.get_model_version(name, str(version))
        except Exception as error:
            raise VersionNotFound(f"{name} has no version {version}.") from error

    def _version(self, found: Any, aliases: dict[str, int], verdict: Verdict) -> Version:
        metrics: dict[str, float] = {}
        lineage: dict[str, str] = {}
        # The developer's own run first: what the platform measured itself has the last word.
        for run_id in dict.fromkeys((found.run_id, verdict.run)):
            if run := run_of(self.client, run_id):
                metrics |= {k: v for k, v in run.data.metrics.items() if math.isfinite(v)}
                lineage |= {
                    name.removeprefix("lineage."): value
                    for name, value in run.data.params.items()
                    if name.startswith("lineage.")
                }
        return Version(
            algorithm=found.name, version=int(found.version),
            digest=found.tags.get(DIGEST, "") if verdict.digest else "",
            run_id=found.run_id or "", source=found.tags.get(SOURCE, "mlflow"),
            created_at=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
            aliases=sorted(a for a, v in aliases.items() if v == int(found.version)),
            metrics=metrics, lineage=lineage, forms=forms_in(found.tags), problem=verdict.problem,
        )  # fmt: skip
