"""The algorithm card: the manifest's words, the newest figures, and whether the version ends."""

from __future__ import annotations

from citybrain.core.errors import VersionNotFound
from citybrain.core.names import Ref
from citybrain.core.schemas.cards import Card, CardFigures
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
        withdrawn = {e.version: e.reason for e in self._endings.ends(name) if e.kind == "withdrawn"}
        version = self._catalogue.version(Ref(name, target or self._shown(name, withdrawn)))
        manifest = self._catalogue.manifest(name, version.version)
        retired = {r.version: r for r in self._endings.retirements(name)}
        return Card(
            algorithm=name, version=version.version, aliases=version.aliases,
            title_zh=manifest.title.zh, title_en=manifest.title.en,
            description=manifest.description, task=manifest.task, domain=manifest.domain,
            runtime=manifest.runtime, owner=manifest.owner, contact=manifest.contact,
            licence=manifest.licence, level=manifest.level, purposes=list(manifest.purposes),
            limits=list(manifest.limits), training_data=manifest.training_data,
            data=manifest.lineage.data, data_digest=manifest.lineage.data_digest,
            digest=version.digest, registered_at=version.created_at,
            training_metrics={k: v for k, v in version.metrics.items() if "." not in k},
            evaluations=self._figures(name, version.version),
            retirement=retired.get(version.version) or retired.get(0),
            withdrawn=withdrawn.get(version.version, ""),
        )  # fmt: skip

    def _shown(self, name: str, withdrawn: dict[int, str]) -> str:
        if "champion" in self._catalogue.algorithm(name).aliases:
            return "champion"
        for version in self._catalogue.versions(name):
            if not version.problem and version.version not in withdrawn:
                return str(version.version)
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
