"""Versions that a developer registered with plain `mlflow` calls: what the platform makes of them.

Only MLflow's description (`MLmodel`, a YAML file) and the ONNX graph are read; MLflow's own
loaders, which may run code that came with a model, are never called.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from citybrain.core.errors import BadPackage
from citybrain.core.names import check_name
from citybrain.models.onnx_session import OnnxSession
from citybrain.models.package import MANIFEST, check_relative


def as_package(folder: Path, name: str, out: Path) -> None:
    """Write the package of an ONNX model that `mlflow.onnx.log_model` left in `folder`."""
    check_name(name, "algorithm name")
    description = _description(folder)
    data = description.get("flavors", {}).get("onnx", {}).get("data")
    if not isinstance(data, str):
        flavours = ", ".join(description.get("flavors", {})) or "none"
        raise BadPackage(
            f"This model was logged as {flavours[:120]}; the platform takes ONNX from plain MLflow.",
            hint="Log it with mlflow.onnx.log_model, or hand in a folder: citybrain register.",
        )
    weights = folder / check_relative(data)
    if weights.is_symlink() or not weights.is_file():
        raise BadPackage(f"MLmodel names {data!r}, which is not a file beside it.")
    signature = OnnxSession(weights).signature()
    tensors = {
        side: [{"name": s.name, "dtype": s.dtype, "shape": list(s.shape)} for s in specs]
        for side, specs in (
            ("inputs", signature.inputs),
            ("outputs", signature.outputs),
        )
    }
    manifest = {
        "format": 1, "name": name, "title": {"zh": name, "en": name},
        "description": "Registered with plain MLflow calls.",
        "task": "tensor", "runtime": "onnx", "weights": "model.onnx",
        "domain": "government", "owner": "platform", "licence": "unknown",
        "options": tensors,
    }  # fmt: skip
    out.mkdir(parents=True)
    shutil.copyfile(weights, out / "model.onnx")
    (out / MANIFEST).write_text(yaml.safe_dump(manifest, sort_keys=False), encoding="utf-8")


def _description(folder: Path) -> dict[str, Any]:
    path = folder / "MLmodel"
    try:
        if path.is_symlink() or path.stat().st_size > 1_000_000:
            raise BadPackage("MLmodel is not a small regular file.")
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadPackage("The version has no MLmodel file that can be read.") from error
    if not isinstance(found, dict) or not isinstance(found.get("flavors", {}), dict):
        raise BadPackage("MLmodel is not a description of a model.")
    return found
