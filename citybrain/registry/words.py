"""What an MLflow user says of a model: tags `citybrain.licence`, … of the version or of its model.

Tags are words, and nothing is proven by them. The version's own must agree with its files; those of
the model hold where neither the version nor its files say a word, after what the algorithm says of
itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from citybrain.core.errors import BadPackage
from citybrain.models.package import CARD, JSON_WORDS, MANIFEST, NEEDED
from citybrain.registry.admission.archive import is_archive
from citybrain.registry.facts import usual_words

if TYPE_CHECKING:
    from citybrain.registry.catalogue import Catalogue

Card = dict[str, Any]
WORDS = {f"citybrain.{field}": field for field in CARD}
EXAMPLES = {"owner": "traffic", "licence": "Apache-2.0", "domain": "traffic"}


def of(catalogue: Catalogue, model: Any, found: Any, department: str) -> tuple[Card, Card]:
    """What a version's tags say, and what holds where neither they nor its files do."""
    usual: Card = {"description": "Registered with plain MLflow calls."}
    usual |= {"owner": department} if department else {}
    usual |= _said(model.tags) | usual_words(catalogue, found.name, weights=True)
    usual |= {"description": found.description} if found.description else {}
    return _said(found.tags), usual


def untold(card: Card, usual: Card) -> list[str]:
    """What nobody can guess, and nobody has said."""
    return [field for field in NEEDED if not (card.get(field) or usual.get(field))]


def how_to_say(name: str, version: str, missing: Sequence[str]) -> str:
    """The reason, and the calls that mend it."""
    calls = "; ".join(
        f'client.set_registered_model_tag("{name}", "citybrain.{field}", "{EXAMPLES[field]}")'
        for field in missing
    )
    return (
        f"{name}@{version} says no {' and no '.join(missing)}, and nothing is taken in without. Say it "
        f"once for the model, and the version is looked at again: client = MlflowClient(); {calls}"
    )


def in_files(source: Path) -> bool:
    """Whether the files may have an `algorithm.yaml`, which says all that is needed."""
    files = list(source.iterdir())
    inner = files[0] if len(files) == 1 else source
    return (inner / MANIFEST).is_file() or (inner.is_file() and is_archive(inner))


def _said(tags: Mapping[str, str]) -> Card:
    card: Card = {}
    for tag, field in WORDS.items():
        if said := tags.get(tag):
            try:
                card[field] = json.loads(said) if field in JSON_WORDS else said
            except ValueError as error:
                raise BadPackage(f"The tag {tag} is not JSON.") from error
    return card
