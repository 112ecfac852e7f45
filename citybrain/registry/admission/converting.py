"""A version's ONNX form: the same answers without torch, usually several times as fast.

Runs in the sandbox. What it writes is compared with its source on the task's own example in many
sizes and on real samples, and refused when an output is not the same within 1e-3 of its size.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from citybrain.core.errors import BadPackage
from citybrain.models.converter import parity
from citybrain.models.onnx_session import OnnxSession
from citybrain.models.package import MANIFEST, Package, package_files
from citybrain.models.predictor import Predictor
from citybrain.models.torch_onnx import export_network
from citybrain.models.variants import variants
from citybrain.registry.admission.examining import milliseconds
from citybrain.registry.admission.samples import real_calls

WEIGHTS = "model.onnx"


def convert(work: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Write the package in `work/in` again with an ONNX graph into `work/out`; parity and speed."""
    source, out = work / "in", work / "out"
    package = Package.open(source)
    if package.weights.suffix == ".onnx":
        raise BadPackage(
            f"{package.manifest.weights} is ONNX already.",
            hint="For a smaller form: citybrain convert NAME@VERSION --to int8",
        )
    predictor = Predictor.open(source)
    out.mkdir()
    calls = variants(predictor.task)
    export_network(predictor.runtime.network(), calls, out / WEIGHTS)
    _copy_the_rest(package, out, str(request["parent"]))
    real = real_calls(predictor.task, work)
    session = OnnxSession(out / WEIGHTS)
    return {
        "kind": "onnx", "converter": "torch-export", "source": str(request["parent"]),
        "parity": parity(predictor.runtime.infer, session, calls + real.calls),
        "calls": len(calls), "samples": len(real.calls), "unread": real.unread,
        "bytes": [sum(path.stat().st_size for path in package_files(side)) for side in (source, out)],
        "speed": [milliseconds(Predictor.open(side)) for side in (source, out)],
    }  # fmt: skip


def _copy_the_rest(package: Package, out: Path, parent: str) -> None:
    """Everything but the weights, with a manifest that says where the graph comes from."""
    for path in package_files(package.folder):
        inside = path.relative_to(package.folder)
        if path.suffix == ".safetensors" or inside.as_posix() == MANIFEST:
            continue
        (out / inside).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, out / inside)
    write_manifest(package.folder, out, parent, runtime="onnx", weights=WEIGHTS)


def write_manifest(source: Path, out: Path, parent: str, **changes: str) -> None:
    """The manifest of `source` for another form of it, whose lineage names the version it is of."""
    manifest = yaml.safe_load((source / MANIFEST).read_text(encoding="utf-8")) | changes
    manifest["lineage"] = {**manifest.get("lineage", {}), "source": parent}
    text = yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True)
    (out / MANIFEST).write_text(text, encoding="utf-8")
