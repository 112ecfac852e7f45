"""A version's ONNX form: the same answers without torch, usually several times as fast.

Runs in the sandbox. What it writes is compared with its source on the task's own example in many
sizes and on real samples, and refused when an output is not the same within 1e-3 of its size.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from citybrain.core.errors import BadPackage, CityBrainError
from citybrain.core.tensors import Tensors, bytes_array
from citybrain.models.converter import parity
from citybrain.models.onnx_session import OnnxSession
from citybrain.models.package import MANIFEST, Package, package_files
from citybrain.models.predictor import Predictor
from citybrain.models.torch_onnx import export_network
from citybrain.models.variants import variants
from citybrain.registry.admission.examining import milliseconds

WEIGHTS = "model.onnx"


def convert(work: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Write the package in `work/in` again with an ONNX graph into `work/out`; parity and speed.

    `work/samples`, when it is there, holds task tensors of real samples, one `.npz` a sample.
    """
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
    real = real_calls(predictor, work / "samples")
    session = OnnxSession(out / WEIGHTS)
    return {
        "kind": "onnx", "converter": "torch-export", "source": str(request["parent"]),
        "parity": parity(predictor.runtime.infer, session, calls + real),
        "calls": len(calls), "samples": len(real),
        "bytes": [sum(path.stat().st_size for path in package_files(side)) for side in (source, out)],
        "speed": [milliseconds(Predictor.open(side)) for side in (source, out)],
    }  # fmt: skip


def write_samples(folder: Path, samples: list[Tensors]) -> None:
    """Put task tensors where `convert` reads them; texts and pictures as lengths and bytes."""
    folder.mkdir(parents=True)
    for index, sample in enumerate(samples):
        plain = {}
        for name, array in sample.items():
            if array.dtype == np.object_:
                values = array.ravel().tolist()
                plain[f"{name}.bytes"] = np.frombuffer(b"".join(values), np.uint8)
                plain[f"{name}.sizes"] = np.array([len(value) for value in values], np.int64)
            else:
                plain[name] = array
        np.savez(folder / f"{index:04d}.npz", allow_pickle=False, **plain)


def _read_sample(path: Path) -> Tensors:
    with np.load(path, allow_pickle=False) as plain:
        found: Tensors = {name: plain[name] for name in plain.files if "." not in name}
        for name in (n.removesuffix(".sizes") for n in plain.files if n.endswith(".sizes")):
            joined, ends = plain[f"{name}.bytes"].tobytes(), np.cumsum(plain[f"{name}.sizes"])
            starts = [0, *ends[:-1].tolist()]
            found[name] = bytes_array(
                [joined[start:end] for start, end in zip(starts, ends.tolist(), strict=True)]
            )
    return found


def real_calls(predictor: Predictor, folder: Path) -> list[Tensors]:
    """The model's tensors of the samples that it can take at all."""
    found = []
    for path in sorted(folder.glob("*.npz")):
        try:
            found.append(predictor.task.prepare(_read_sample(path)))
        except CityBrainError:
            continue
    return found


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
