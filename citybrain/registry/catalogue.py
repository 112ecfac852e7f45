"""The catalogue: register a package as a version in MLflow, list what there is, fetch a version.

MLflow is the truth for versions, parameters, metrics and artifacts. Replicas load from
`HOME/packages/<digest>`, a verified copy that can be made again from MLflow's artifacts.
"""

from __future__ import annotations

import contextlib
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
from citybrain.registry.runs import DIGEST, PACKAGE, log_package, read_report, run_of
from citybrain.registry.signing import Signers
from citybrain.registry.tracker import open_client, run_folder
from citybrain.storage.records.history import History

SOURCE, NOTED, PROBLEM, SIGNED = (
    f"citybrain.{name}" for name in ("source", "noted", "problem", "signed")
)
CHALLENGER = "challenger"


class Catalogue:
    """Versions in MLflow, governed by the history in the platform database."""

    def __init__(self, home: Home, history: History, *, approval: str) -> None:
        self._home = home
        self._history = history
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
        leaves nothing that can be called; what stops before the note is noted by `adopt`.
        """
        package = Package.open(folder)
        manifest = package.manifest
        if expected and manifest.name != expected:
            raise InvalidInput(f"The folder holds {manifest.name}, not {expected[:80]}.")
        self._check_owner(manifest, actor)
        open_task(manifest, folder)  # the options must fit the task
        digest = folder_digest(folder)
        with self.lock:
            self.store(folder, digest)
            self.ensure_algorithm(manifest)
            run_id = log_package(
                self.client, self._home.mlflow, folder, manifest, digest,
                metrics=metrics or {}, report=report or {},
            )  # fmt: skip
            created = self.client.create_model_version(
                manifest.name, f"runs:/{run_id}/package", run_id,
                tags={DIGEST: digest, SOURCE: "package"},
            )  # fmt: skip
            self.note(manifest, int(created.version), digest, actor)
        return self.version(Ref(manifest.name, str(created.version)))

    def _check_owner(self, manifest: Manifest, actor: Actor) -> None:
        owner = self._history.algorithms().get(manifest.name, (manifest.owner, ""))[0]
        if owner != manifest.owner:
            raise InvalidInput(
                f"{manifest.name} belongs to {owner}; algorithm.yaml says {manifest.owner}."
            )
        if actor.role != "admin" and actor.department != owner:
            raise NotAllowed(f"{manifest.name} belongs to {owner}, not to {actor.department}.")

    def ensure_algorithm(self, manifest: Manifest) -> None:
        """Make the registered model, or bring its titles up to date."""
        tags = {
            "citybrain.title.zh": manifest.title.zh, "citybrain.title.en": manifest.title.en,
            "citybrain.task": manifest.task, "citybrain.domain": manifest.domain,
            "citybrain.owner": manifest.owner, "citybrain.licence": manifest.licence,
        }  # fmt: skip
        if self.registered(manifest.name) is None:
            self.client.create_registered_model(manifest.name, tags, manifest.description)
            return
        for name, value in tags.items():
            self.client.set_registered_model_tag(manifest.name, name, value)

    def note(self, manifest: Manifest, version: int, digest: str, actor: Actor) -> None:
        """The platform's part of a registration: audit, owner, `challenger`."""
        name = manifest.name
        self._history.note_version(name, version, manifest.owner, self._approval, actor, digest)
        before = self._history.aliases(name).get(name, {}).get(CHALLENGER, 0)
        self._history.move(
            name, CHALLENGER, version, expected=before, reason="registered", actor=actor
        )
        self.sign(name, version, digest)
        self.client.set_model_version_tag(name, str(version), NOTED, "1")

    def sign(self, name: str, version: int, digest: str) -> None:
        """Vouch for a version's files, with the key that signs now."""
        signed = self.signers.sign(name, version, digest)
        self.client.set_model_version_tag(name, str(version), SIGNED, signed)

    def statement(self, name: str, version: int) -> str:
        """The signed statement about a version, for those who load it."""
        return str(self._model_version(name, version).tags.get(SIGNED, ""))

    def store(self, folder: Path, digest: str) -> Path:
        """A private copy under its digest; written beside and renamed, so never half there."""
        target = self._home.packages / digest
        if target.is_dir():
            return target
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
        found = self._model_version(name, version)
        target, digest = self.fetched(found)
        check(found.tags.get(SIGNED, ""), name, version, digest, self.signers.trusted())
        return target, digest

    def fetched(self, found: Any) -> tuple[Path, str]:
        """The local copy of an MLflow version with the digest that MLflow tells, signed or not."""
        name, digest = f"{found.name}@{found.version}", found.tags.get(DIGEST, "")
        if problem := found.tags.get(PROBLEM, ""):
            raise BadPackage(f"{name} was not taken in: {problem}")
        if not digest:
            raise VersionNotFound(f"{name} is being taken in.", hint="Repeat shortly.")
        target = self._home.packages / digest
        if not target.is_dir():
            with self.lock:
                source = run_folder(self.client, run_of(found), PACKAGE)
                if folder_digest(source) != digest:
                    raise DigestMismatch(
                        f"The artifacts of {name} are not those that were registered.",
                        hint="Restore them from a backup, or register the folder again.",
                    )
                self.store(source, digest)
        return target, digest

    def algorithms(self) -> list[Algorithm]:
        """Every algorithm of the catalogue, by name."""
        governed, aliases = self._history.algorithms(), self._history.aliases()
        found = [
            _algorithm(model, governed, aliases)
            for model in self.client.search_registered_models(max_results=1000)
            if model.name in governed
        ]
        return sorted(found, key=lambda item: item.name)

    def algorithm(self, name: str) -> Algorithm:
        """One algorithm, or AlgorithmNotFound."""
        model, governed = self.registered(name), self._history.algorithms()
        if model is None or name not in governed:
            raise AlgorithmNotFound(
                f"No algorithm is called {name[:80]!r}.",
                hint="List them: citybrain algorithms",
            )
        return _algorithm(model, governed, self._history.aliases(name))

    def versions(self, name: str) -> list[Version]:
        """All versions of an algorithm, newest first."""
        self.algorithm(name)
        aliases = self._history.aliases(name).get(name, {})
        found = self.client.search_model_versions(f"name='{name}'")
        versions = [self._version(item, aliases) for item in found]
        return sorted(versions, key=lambda item: -item.version)

    def version(self, ref: Ref) -> Version:
        """The version behind `name`, `name@alias` or `name@7`; without a target the newest."""
        number = self.resolve(ref)
        aliases = self._history.aliases(ref.algorithm).get(ref.algorithm, {})
        return self._version(self._model_version(ref.algorithm, number), aliases)

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
        return read_report(self.client, self._model_version(name, version))

    def manifest(self, name: str, version: int) -> Manifest:
        """The manifest of a version."""
        folder, _ = self.folder(name, version)
        return Package.open(folder).manifest

    def log_metrics(self, name: str, version: int, prefix: str, values: dict[str, float]) -> None:
        """Write an evaluation's figures to the version's run."""
        run_id = self._model_version(name, version).run_id
        if run_id:
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

    def _version(self, found: Any, aliases: dict[str, int]) -> Version:
        metrics: dict[str, float] = {}
        lineage: dict[str, str] = {}
        if found.run_id:
            data = self.client.get_run(found.run_id).data
            metrics = dict(data.metrics)
            lineage = {
                name.removeprefix("lineage."): value
                for name, value in data.params.items()
                if name.startswith("lineage.")
            }
        return Version(
            algorithm=found.name, version=int(found.version), digest=found.tags.get(DIGEST, ""),
            run_id=found.run_id or "", source=found.tags.get(SOURCE, "mlflow"),
            created_at=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
            aliases=sorted(a for a, v in aliases.items() if v == int(found.version)),
            metrics=metrics, lineage=lineage, problem=found.tags.get(PROBLEM, ""),
        )  # fmt: skip


def _algorithm(
    model: Any, governed: dict[str, tuple[str, str]], aliases: dict[str, dict[str, int]]
) -> Algorithm:
    owner, approval = governed[model.name]
    tags = model.tags
    latest = max((int(version.version) for version in model.latest_versions or ()), default=0)
    return Algorithm(
        name=model.name, title_zh=tags.get("citybrain.title.zh", model.name),
        title_en=tags.get("citybrain.title.en", model.name), description=model.description or "",
        task=tags.get("citybrain.task", ""), domain=tags.get("citybrain.domain", ""), owner=owner,
        licence=tags.get("citybrain.licence", ""), approval=approval,
        latest=latest, aliases=aliases.get(model.name, {}),
    )  # fmt: skip
