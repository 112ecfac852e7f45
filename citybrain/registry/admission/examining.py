"""Is this package harmless, and does it answer? The second step of admission, in a fresh sandbox."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from citybrain.core.errors import BadPackage, CityBrainError, MissingLibrary
from citybrain.models.package import MANIFEST, Package, package_files
from citybrain.models.pipeline import read_pipeline
from citybrain.models.predictor import Predictor
from citybrain.models.runtime import RUNTIMES
from citybrain.models.task import open_task
from citybrain.registry.admission.archive import only_regular
from citybrain.registry.admission.graphs import check_graph
from citybrain.registry.admission.tensor_files import check_safetensors

TEXTS = {".yaml", ".yml", ".json", ".txt", ".md", ".csv", ".model", ".vocab"}
BARE = {"licence", "license", "notice", "readme", "copying", "authors"}
"""Names without a suffix that packages may hold."""
TRIES = 20
COMPOSITION = "composition"


def examine(work: Path, _request: dict[str, Any]) -> dict[str, Any]:
    """Check every file of the package in `work/in`, then try it, unless its model stays elsewhere."""
    folder = work / "in"
    only_regular(folder)
    package = Package.open(folder)
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
    runtime = RUNTIMES.get(package.manifest.runtime)
    if runtime.composed:
        return facts | _composed(package)
    if runtime.remote:
        open_task(package.manifest, folder)  # the options must fit; there is no network in here
        return facts
    predictor, loaded = _load(folder)
    return facts | loaded | _answers(predictor)


def _composed(package: Package) -> dict[str, Any]:
    """What can be told of a pipeline without its algorithms."""
    if package.manifest.task != COMPOSITION:
        raise BadPackage(f"A pipeline has the task {COMPOSITION!r}, not {package.manifest.task!r}.")
    open_task(package.manifest, package.folder)
    plan = read_pipeline(package.weights)
    return {"calls": [str(ref) for ref in plan.refs()]}


def try_remote(folder: Path) -> dict[str, Any]:
    """Let a model that stays elsewhere answer; outside the sandbox, for nothing of it runs here."""
    predictor, loaded = _load(folder)
    try:
        facts = loaded | _answers(predictor)
        # Its metadata cannot tell an axis of any size from a batch axis: two rows can.
        one = predictor.task.read(predictor.task.example()[:1])
        two = {name: np.repeat(array, 2, axis=0) for name, array in one.items()}
        answer = predictor.infer([two])[0]
        if isinstance(answer, CityBrainError):
            raise BadPackage(f"It does not answer two rows in one call: {answer}")
    finally:
        predictor.runtime.close()
    return facts | {"tried": "on the server that it lies on, outside the sandbox"}


def _load(folder: Path) -> tuple[Predictor, dict[str, Any]]:
    began = time.perf_counter()
    try:
        predictor = Predictor.open(folder)
    except MissingLibrary as error:
        raise BadPackage(str(error)) from error
    return predictor, {"load_seconds": round(time.perf_counter() - began, 3)}


def _answers(predictor: Predictor) -> dict[str, Any]:
    return {"milliseconds": milliseconds(predictor), "describe": predictor.runtime.describe()}


def milliseconds(predictor: Predictor) -> float:
    """Median time of one call of one example row here, in milliseconds; proof that it answers."""
    inputs = predictor.task.read(predictor.task.example()[:1])

    def call() -> None:
        answer = predictor.infer([inputs])[0]
        if isinstance(answer, CityBrainError):
            raise BadPackage(f"It does not answer its own example: {answer}", hint=_look_at())

    return median_milliseconds(call)


def median_milliseconds(call: Callable[[], object]) -> float:
    """Median time of a call, in milliseconds: of twenty, or of as many as five seconds hold."""
    took: list[float] = []
    until = time.perf_counter() + 5
    while len(took) < TRIES and (time.perf_counter() < until or not took):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return round(1000 * sorted(took)[len(took) // 2], 4)


def _look_at() -> str:
    return f"Check task and options in {MANIFEST} against the model's inputs and outputs."
