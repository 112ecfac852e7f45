"""Train a recipe into a package, and register it: through a running platform, or into the home."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from citybrain.core.errors import BadPackage
from citybrain.core.home import Home
from citybrain.core.schemas import Version
from citybrain.core.settings import QUIET_LIBRARIES, Settings, put_environment
from citybrain.models.package import MANIFEST, Package, data_digest
from citybrain.models.recipe import RECIPES, Progress
from citybrain.sdk import CityBrain

GENERATED = "generated"
PATIENCE = 6.0
"""How slow a machine may be before a training without a budget of its own is cut short."""


@dataclass(frozen=True)
class Trained:
    """A package that a recipe just wrote, and its validation metrics."""

    folder: Path
    name: str
    metrics: dict[str, float]


def train_package(
    recipe_name: str, home: Home, data: Path | None, *, seed: int, budget: float | None,
    watch: Progress, out: Path | None = None, settings: Mapping[str, str] | None = None,
) -> Trained:  # fmt: skip
    """Run a recipe; the package says from which data and seed it came."""
    put_environment(QUIET_LIBRARIES)
    recipe = RECIPES.get(recipe_name)
    if budget is None:  # nobody waits for the clock: the same steps, whatever machine this is
        recipe.patience = PATIENCE
    for name, value in (settings or {}).items():
        recipe.set(name, value)
    if out is not None and out.exists() and any(out.iterdir()):
        raise BadPackage(f"{out} is not empty.", hint="Give a new folder to --out.")
    work = Path(tempfile.mkdtemp(dir=home.work, prefix=f"{recipe_name}-"))
    try:
        if data is None:
            watch(0.0, f"{recipe_name}: generating data")
            data = recipe.generate(work / "data", seed=seed, part="train")
            source = f"{GENERATED}:{recipe_name}"
        else:
            source = data.name
        folder = work / "package"
        metrics = recipe.train(
            data, folder, seed=seed, budget=budget or recipe.budget,
            progress=lambda share, text: watch(share, f"{recipe_name}: {text}"),
        )  # fmt: skip
        digest = data_digest(data)
        _write_lineage(folder, recipe_name, source, digest, seed)
        package = Package.open(folder)
        kept = out or home.work / f"{recipe_name}-package"
        if out is None and kept.exists():
            shutil.rmtree(kept)
        shutil.copytree(folder, kept, dirs_exist_ok=True)
        return Trained(kept, package.manifest.name, metrics)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write_lineage(folder: Path, recipe: str, source: str, digest: str, seed: int) -> None:
    path = folder / MANIFEST
    manifest = yaml.safe_load(path.read_text(encoding="utf-8"))
    manifest["lineage"] = {"recipe": recipe, "data": source, "data_digest": digest, "seed": seed}
    text = yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")


def register_package(trained: Trained, home: Home, city: CityBrain | None) -> Version:
    """Register through the platform that runs, else into the home directly."""
    if city is not None:
        return city.register(trained.folder, trained.name, trained.metrics)
    from citybrain.platform.wiring import SYSTEM, build

    plane = build(Settings().at(home.root))
    return plane.intake.take(trained.folder, SYSTEM, metrics=trained.metrics)
