"""What keeps MLflow and the platform's history one: adopt new versions, project the aliases."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from citybrain.core.errors import BadPackage, CityBrainError
from citybrain.core.home import Home
from citybrain.core.names import RETIRED, check_name
from citybrain.core.schemas import Actor
from citybrain.models.package import Package, folder_digest
from citybrain.registry.catalogue import NOTED, PROBLEM, SOURCE, Catalogue
from citybrain.registry.intake import Intake
from citybrain.registry.runs import DIGEST, RUN, log_package
from citybrain.registry.tracker import ChangeSign, artifact_folder
from citybrain.storage.records.history import History

MLFLOW = Actor(key="mlflow", department="platform", role="developer")


class Projection:
    """Run every few seconds, and after each act that moves an alias."""

    def __init__(self, catalogue: Catalogue, history: History, home: Home, intake: Intake) -> None:
        self._catalogue = catalogue
        self._history = history
        self._intake = intake
        self._home = home
        self._client = catalogue.client
        self._sign = ChangeSign(home.mlflow)
        self._seen: tuple[int, int] = (-1, -1)

    def run(self) -> None:
        """Adopt, then project every algorithm; nothing at all when neither side has changed."""
        stamp = (self._sign.now(), self._history.revision())
        if stamp == self._seen:
            return
        for model in self._client.search_registered_models(max_results=1000):
            for found in self._client.search_model_versions(f"name='{model.name}'"):
                if not (found.tags.get(NOTED) or found.tags.get(PROBLEM)):
                    self._adopt(model, found)
            with self._catalogue.lock:
                self.project(model.name)
        self._seen = stamp

    def _adopt(self, model: Any, found: Any) -> None:
        """Take in a plain MLflow version, or finish what a kill interrupted."""
        name, version = found.name, int(found.version)
        try:
            if not found.tags.get(DIGEST):
                self._admit(model, found)
            with self._catalogue.lock:
                now = self._client.get_model_version(name, str(version))
                if not now.tags.get(NOTED):  # a registration may have been under way just now
                    folder, digest = self._catalogue.fetched(now)
                    self._catalogue.note(Package.open(folder).manifest, version, digest, MLFLOW)
        except CityBrainError as error:
            told = f"{error} {error.hint}".strip()
            self._client.set_model_version_tag(name, str(version), PROBLEM, told[:4000])

    def _admit(self, model: Any, found: Any) -> None:
        """Through the sandbox, as any stranger's upload; the lock is not held meanwhile."""
        name, version = check_name(found.name, "algorithm name"), str(found.version)
        with tempfile.TemporaryDirectory(dir=self._home.work, prefix="adopt-") as work:
            source = artifact_folder(self._client, name, int(version))
            admitted = self._intake.admit(source, Path(work) / "admitted", _card(model, found))
            manifest = Package.open(admitted.folder).manifest
            digest = folder_digest(admitted.folder)
            with self._catalogue.lock:
                self._catalogue.store(admitted.folder, digest)
                self._catalogue.ensure_algorithm(manifest)
                run_id = log_package(
                    self._client, self._home.mlflow, admitted.folder, manifest, digest,
                    metrics={}, report=admitted.report,
                )  # fmt: skip
                for tag, value in ((SOURCE, "mlflow"), (RUN, run_id), (DIGEST, digest)):
                    self._client.set_model_version_tag(name, version, tag, value)

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


def _card(model: Any, found: Any) -> dict[str, Any]:
    """What an MLflow user told by tags (`citybrain.task`, …) of the version or the model."""
    tags = {**model.tags, **found.tags}
    card: dict[str, Any] = {
        "name": found.name, "owner": "platform", "licence": "unknown", "domain": "government",
        "description": found.description or "Registered with plain MLflow calls.",
    }  # fmt: skip
    for field in ("task", "owner", "licence", "domain"):
        if told := tags.get(f"citybrain.{field}"):
            card[field] = told
    if told := tags.get("citybrain.options"):
        try:
            card["options"] = json.loads(told)
        except ValueError as error:
            raise BadPackage("The tag citybrain.options is not JSON.") from error
    return card
