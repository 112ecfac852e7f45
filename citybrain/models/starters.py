"""Starters that come with weights: trained by this project's recipes, kept as package folders.

`citybrain train RECIPE` makes each again; its `algorithm.yaml` names recipe, data and seed, and
`training.json` the budget and the validation metrics. What is not here is trained at the first
demo.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

FACTS = "training.json"


@dataclass(frozen=True)
class Starter:
    """A shipped package and what its training measured."""

    folder: Path
    metrics: dict[str, float]


def shipped(recipe: str) -> Starter | None:
    """The starter of this recipe, if the project ships it."""
    folder = Path(str(resources.files("citybrain.models") / "zoo" / recipe))
    if not (folder / FACTS).is_file():
        return None
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    return Starter(folder, {name: float(value) for name, value in facts["metrics"].items()})
