"""The algorithm card: the manifest's words, the newest figures, and whether the version ends."""

from __future__ import annotations

from citybrain.core.errors import PurposeNotServed, VersionNotFound
from citybrain.core.names import Ref
from citybrain.core.schemas.cards import Card, CardFigures
from citybrain.models.package import Package
from citybrain.models.remote import remote_address
from citybrain.registry.catalogue import Catalogue
from citybrain.storage.records.endings import Endings
from citybrain.storage.records.evaluations import Evaluations


class Cards:
    """Writes cards from what the platform knows; nothing is kept twice."""

    def __init__(self, catalogue: Catalogue, evaluations: Evaluations, endings: Endings) -> None:
        self._catalogue = catalogue
        self._evaluations = evaluations
        self._endings = endings

    def card(self, name: str, target: str = "") -> Card:
        """The card of a version; without a target the champion's, else the newest usable one's."""
        withdrawn = {e.version: e.reason for e in self._endings.ends(name)
                     if e.kind == "withdrawn"}  # fmt: skip
        version = self._catalogue.version(Ref(name, target or str(self._shown(name))))
        package = Package.open(self._catalogue.folder(name, version.version)[0])
        manifest = package.manifest
        retired = {r.version: r for r in self._endings.retirements(name)}
        return Card(
            algorithm=name, version=version.version, aliases=version.aliases,
            title_zh=manifest.title.zh, title_en=manifest.title.en,
            description=manifest.description, task=manifest.task, domain=manifest.domain,
            runtime=manifest.runtime, owner=manifest.owner, contact=manifest.contact,
            licence=manifest.licence, level=manifest.level, purposes=list(manifest.purposes),
            limits=list(manifest.limits), training_data=manifest.training_data,
            data=manifest.lineage.data, data_digest=manifest.lineage.data_digest,
            digest=version.digest, remote=remote_address(package),
            registered_at=version.created_at,
            training_metrics={k: v for k, v in version.metrics.items() if "." not in k},
            evaluations=self._figures(name, version.version),
            retirement=retired.get(version.version) or retired.get(0),
            withdrawn=withdrawn.get(version.version, ""),
        )  # fmt: skip

    def check_purpose(self, name: str, purpose: str) -> None:
        """PurposeNotServed when the algorithm was made for other purposes only."""
        try:
            version = self._shown(name)
        except VersionNotFound:
            return  # whoever grants ahead of the first usable version knows no card yet
        made_for = self._catalogue.manifest(name, version).purposes
        if made_for and purpose not in made_for:
            raise PurposeNotServed(
                f"{name}@{version} was made for {', '.join(made_for)}, not for {purpose}.",
                hint="Grant one of these, or register a version whose card names the purpose.",
            )

    def _shown(self, name: str) -> int:
        self._catalogue.algorithm(name)
        if version := self._catalogue.speaker(name):
            return version
        raise VersionNotFound(f"{name} has no version that can be used.")

    def _figures(self, name: str, version: int) -> list[CardFigures]:
        """The newest evaluation in each scenario, on the scenario's own data."""
        newest: dict[str, CardFigures] = {}
        for found in self._evaluations.find(algorithm=name, version=version, state="done"):
            if found.data or found.scenario in newest:
                continue
            newest[found.scenario] = CardFigures(
                scenario=found.scenario, at=found.finished_at or found.created_at,
                passed=bool(found.passed), items=int(found.report.get("items", 0)),
                metrics=found.report.get("metrics", {}),
            )  # fmt: skip
        return list(newest.values())
