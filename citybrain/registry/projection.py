"""What keeps MLflow and the platform's history one: adopt new versions, project the aliases."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from citybrain.core.errors import CityBrainError
from citybrain.core.home import Home
from citybrain.core.names import RETIRED
from citybrain.core.schemas import Actor
from citybrain.models.package import Package, folder_digest
from citybrain.registry.catalogue import DIGEST, NOTED, PROBLEM, SOURCE, Catalogue
from citybrain.registry.plain_mlflow import as_package
from citybrain.registry.tracker import ChangeSign, artifact_folder
from citybrain.storage.records.history import History

MLFLOW = Actor(key="mlflow", department="platform", role="developer")


class Projection:
    """Run every few seconds, and after each act that moves an alias."""

    def __init__(self, catalogue: Catalogue, history: History, home: Home) -> None:
        self._catalogue = catalogue
        self._history = history
        self._packages = home.packages
        self._client = catalogue.client
        self._sign = ChangeSign(home.mlflow)
        self._seen: tuple[int, int] = (-1, -1)

    def run(self) -> None:
        """Adopt, then project every algorithm; nothing at all when neither side has changed."""
        stamp = (self._sign.now(), self._history.revision())
        if stamp == self._seen:
            return
        with self._catalogue.lock:
            for model in self._client.search_registered_models(max_results=1000):
                for found in self._client.search_model_versions(f"name='{model.name}'"):
                    if not (found.tags.get(NOTED) or found.tags.get(PROBLEM)):
                        self._adopt(found)
                self.project(model.name)
        self._seen = stamp

    def _adopt(self, found: Any) -> None:
        """Take in a plain MLflow version, or finish what a kill interrupted."""
        name, version = found.name, int(found.version)
        try:
            if not found.tags.get(DIGEST):
                with tempfile.TemporaryDirectory(dir=self._packages) as work:
                    package = Path(work) / "package"
                    as_package(artifact_folder(self._client, name, version), name, package)
                    digest = folder_digest(package)
                    self._catalogue.store(package, digest)
                manifest = Package.open(self._packages / digest).manifest
                self._catalogue.ensure_algorithm(manifest)
                self._client.set_model_version_tag(name, str(version), SOURCE, "mlflow")
                self._client.set_model_version_tag(name, str(version), DIGEST, digest)
            else:
                digest = found.tags[DIGEST]
            folder, _ = self._catalogue.folder(name, version)
            self._catalogue.note(Package.open(folder).manifest, version, digest, MLFLOW)
        except CityBrainError as error:
            self._client.set_model_version_tag(name, str(version), PROBLEM, str(error)[:4000])

    def project(self, name: str) -> None:
        """Make MLflow's aliases those of the history, after any crash in between."""
        model = self._catalogue.registered(name)
        if model is None:
            return
        wanted = self._history.aliases(name).get(name, {})
        actual = {alias: int(version) for alias, version in model.aliases.items()}
        for alias, version in actual.items():
            last = int(model.tags.get(f"citybrain.alias.{alias}", 0))
            if version == wanted.get(alias) or version == last:
                continue  # ours, perhaps not projected yet
            if alias == RETIRED or version in self._history.withdrawn(name):
                continue  # neither is plain MLflow's to set: it is put back below
            if alias == "champion":
                if not any(
                    p.version == version and p.alias == alias
                    for p in self._history.promotions(name, "waiting")
                ):
                    self._history.ask(name, alias, version, "", MLFLOW)
            else:
                self._history.move(
                    name, alias, version, expected=wanted.get(alias, 0),
                    reason="set by plain MLflow", actor=MLFLOW,
                )  # fmt: skip
                wanted[alias] = version
        for alias, version in wanted.items():
            if actual.get(alias) != version:
                self._client.set_registered_model_alias(name, alias, str(version))
            if model.tags.get(f"citybrain.alias.{alias}") != str(version):
                self._client.set_registered_model_tag(
                    name, f"citybrain.alias.{alias}", str(version)
                )
        for alias in actual.keys() - wanted.keys():
            self._client.delete_registered_model_alias(name, alias)
