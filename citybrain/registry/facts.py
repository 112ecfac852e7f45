"""What an algorithm says of itself: the words of its champion, or of its newest version before one.

A version that nobody promoted describes itself on its own card, and nothing else.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from citybrain.core.errors import CityBrainError, InvalidInput
from citybrain.core.schemas import Algorithm
from citybrain.core.tensors import TensorSpec
from citybrain.models.package import NEEDED, Manifest
from citybrain.models.task import open_task

if TYPE_CHECKING:
    from citybrain.registry.catalogue import Catalogue

DESCRIBED = "citybrain.described"
"""Tag of a registered model: the version whose words it repeats."""
LASTING = ("title", "description", "level", "purposes", "limits", "contact")
"""Words about an algorithm rather than its weights: they hold for files that come without any."""


def algorithm_of(model: Any, governed: tuple[str, str], aliases: dict[str, int]) -> Algorithm:
    """A registered model of MLflow with the platform's decisions: owner and rule, aliases."""
    owner, approval = governed
    tags = model.tags
    latest = max((int(version.version) for version in model.latest_versions or ()), default=0)
    return Algorithm(
        name=model.name, title_zh=tags.get("citybrain.title.zh", model.name),
        title_en=tags.get("citybrain.title.en", model.name), description=model.description or "",
        task=tags.get("citybrain.task", ""), domain=tags.get("citybrain.domain", ""), owner=owner,
        licence=tags.get("citybrain.licence", ""), approval=approval,
        latest=latest, aliases=aliases,
    )  # fmt: skip


def describe(catalogue: Catalogue, name: str) -> None:
    """Repeat in MLflow what the algorithm says of itself now; nothing when it does already."""
    version = catalogue.speaker(name)
    model = catalogue.registered(name) if version else None
    if model is None or model.tags.get(DESCRIBED) == str(version):
        return
    manifest = _manifest(catalogue, name)
    if manifest is None:
        return
    tags = {
        "citybrain.title.zh": manifest.title.zh, "citybrain.title.en": manifest.title.en,
        "citybrain.task": manifest.task, "citybrain.domain": manifest.domain,
        "citybrain.owner": manifest.owner, "citybrain.licence": manifest.licence,
        DESCRIBED: str(version),
    }  # fmt: skip
    if (model.description or "") != manifest.description:
        catalogue.client.update_registered_model(name, manifest.description)
    for tag, value in tags.items():  # the mark last: what a kill interrupts is said again
        if model.tags.get(tag) != value:
            catalogue.client.set_registered_model_tag(name, tag, value)


def usual_words(catalogue: Catalogue, name: str, *, weights: bool = False) -> dict[str, Any]:
    """The part of a card that holds where a source says nothing; `weights`: owner and licence, too."""
    manifest = _manifest(catalogue, name)
    if manifest is None:
        return {}
    fields = {*LASTING, *(NEEDED if weights else ())}
    return manifest.model_dump(mode="json", include=fields)


def check_same_question(catalogue: Catalogue, manifest: Manifest) -> None:
    """InvalidInput for a version that callers of its algorithm could not call as they do now."""
    known = _manifest(catalogue, manifest.name)
    if known is None:
        return
    name, speaker = manifest.name, f"version {catalogue.speaker(manifest.name)}"
    hint = f"Callers of {name} rely on it. Register it under another name."
    if manifest.task != known.task:
        raise InvalidInput(
            f"{name} does {known.task} ({speaker}), and this version does {manifest.task}.",
            hint=hint,
        )
    before, after = open_task(known).signature(), open_task(manifest).signature()
    for side in ("inputs", "outputs"):
        was, will = (_seen(getattr(one, side)) for one in (before, after))
        if was != will:
            raise InvalidInput(
                f"{name} has the {side} {', '.join(was)} ({speaker}), and this version has "
                f"{', '.join(will)}.",
                hint=hint,
            )


def _seen(specs: tuple[TensorSpec, ...]) -> list[str]:
    """What may not change of tensors: names, datatypes, and whether any number of rows will do."""
    return sorted(
        f"{spec.name[:60]} {spec.dtype}[{'n' if spec.shape[0] < 0 else spec.shape[0]}]"
        for spec in specs
    )


def _manifest(catalogue: Catalogue, name: str) -> Manifest | None:
    """The words of the version that speaks; none where there is none, or nobody vouches for it."""
    version = catalogue.speaker(name)
    with contextlib.suppress(CityBrainError):
        return catalogue.manifest(name, version) if version else None
    return None
