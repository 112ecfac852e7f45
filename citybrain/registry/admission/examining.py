"""Is this package harmless, and does it answer? The second step of admission, in a fresh sandbox."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from citybrain.core.errors import BadPackage, CityBrainError, MissingLibrary
from citybrain.models.package import MANIFEST, Package, package_files
from citybrain.models.predictor import Predictor
from citybrain.registry.admission.archive import only_regular
from citybrain.registry.admission.graphs import check_graph
from citybrain.registry.admission.tensor_files import check_safetensors

TEXTS = {".yaml", ".yml", ".json", ".txt", ".md", ".csv", ".model", ".vocab"}
BARE = {"licence", "license", "notice", "readme", "copying", "authors"}
"""Names without a suffix that packages may hold."""
TRIES = 20


def examine(work: Path, _request: dict[str, Any]) -> dict[str, Any]:
    """Check every file of the package in `work/in`, then load it and let it answer its example."""
    folder = work / "in"
    only_regular(folder)
    Package.open(folder)
    facts: dict[str, Any] = {}
    for path in package_files(folder):
        suffix = path.suffix.lower()
        if suffix == ".onnx":
            facts["graph"] = check_graph(path)
        elif suffix == ".safetensors":
            check_safetensors(path)
        elif path.name.startswith(".") or (suffix not in TEXTS and path.name.lower() not in BARE):
            raise BadPackage(
                f"{path.name[:80]} is of a kind that packages do not hold.",
                hint="A package holds .onnx, .safetensors, .json, .yaml, .txt, .md and .csv files.",
            )
    try:
        began = time.perf_counter()
        predictor = Predictor.open(folder)
        facts["load_seconds"] = round(time.perf_counter() - began, 3)
    except MissingLibrary as error:
        raise BadPackage(str(error)) from error
    facts["milliseconds"] = milliseconds(predictor)
    facts["describe"] = predictor.runtime.describe()
    return facts


def milliseconds(predictor: Predictor) -> float:
    """Median time of one call of one example row here, in milliseconds; proof that it answers."""
    inputs = predictor.task.read(predictor.task.example()[:1])
    took: list[float] = []
    until = time.perf_counter() + 5
    while len(took) < TRIES and (time.perf_counter() < until or not took):
        began = time.perf_counter()
        answer = predictor.infer([inputs])[0]
        took.append(time.perf_counter() - began)
        if isinstance(answer, CityBrainError):
            raise BadPackage(f"It does not answer its own example: {answer}", hint=_look_at())
    return round(1000 * sorted(took)[len(took) // 2], 4)


def _look_at() -> str:
    return f"Check task and options in {MANIFEST} against the model's inputs and outputs."
