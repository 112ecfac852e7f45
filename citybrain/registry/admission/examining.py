"""Is this package harmless, and does it answer? The second step of admission, in a fresh sandbox."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import Any

from citybrain.core.errors import BadPackage, CityBrainError, MissingLibrary
from citybrain.models.package import MANIFEST, Package, package_files
from citybrain.models.predictor import Predictor
from citybrain.registry.admission.archive import only_regular
from citybrain.registry.admission.graphs import check_graph

MAX_HEADER = 100 << 20
TEXTS = {".yaml", ".yml", ".json", ".txt", ".md", ".csv", ".model", ".vocab", ""}
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
        elif suffix not in TEXTS:
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
    facts["milliseconds"] = _speed(predictor)
    facts["describe"] = predictor.runtime.describe()
    return facts


def _speed(predictor: Predictor) -> float:
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


def check_safetensors(path: Path) -> None:
    """The header as data, before a library maps anything: sizes that lie are refused."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if len(head) < 8:
            raise BadPackage(f"{path.name} is not a safetensors file.")
        (length,) = struct.unpack("<Q", head)
        if length > min(size - 8, MAX_HEADER):
            raise BadPackage(f"{path.name}: the header claims {length} bytes.")
        try:
            header = json.loads(file.read(length))
            spans = sorted(
                tuple(entry["data_offsets"]) for name, entry in header.items()
                if name != "__metadata__"
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadPackage(f"{path.name}: the header cannot be read.") from error
    end = 0
    for begin, until in spans:
        if begin != end or until < begin:
            raise BadPackage(f"{path.name}: tensors overlap or leave gaps.")
        end = until
    if end != size - 8 - length:
        raise BadPackage(f"{path.name}: {size - 8 - length} bytes of data, {end} described.")
