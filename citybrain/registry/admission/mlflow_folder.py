"""An MLflow model's folder: `MLmodel` is read as data, and one of its flavors is taken.

MLflow's own loaders run code that came with a model (`loader_module`, `code`, pickles, remote code
of transformers); none of them is called, and a model that needs them is refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from citybrain.core.errors import BadPackage
from citybrain.models.package import check_relative
from citybrain.registry.admission.pickles import SAVE_SAFELY

MAX_DESCRIPTION = 200_000
MAX_VALUES = 50_000
WRAPPERS = {"mlflow.onnx", "mlflow.pytorch", "mlflow.sklearn", "mlflow.transformers"}
"""Loaders of pyfunc that only wrap the weights of another flavor."""
WRAPPING = {
    "loader_module", "data", "model_path", "model_binary", "predict_fn", "streamable", "env",
    "python_version", "config", "pickle_module_name",
}  # fmt: skip
"""What a pyfunc without another flavor may say of itself: where its weights lie, and nothing to run."""
PLACES = ("data", "model_path", "model_binary")
PICKLES = "mlflow.pytorch.pickle_module"
"""What MLflow writes for every torch model, also for one without a pickle."""
LOG_IT = (
    "Log the model itself: mlflow.onnx, mlflow.sklearn (skops), mlflow.pytorch (pt2) or "
    "mlflow.transformers."
)
TRANSFORMERS_TASKS = {
    "text-classification": "text-classification", "sentiment-analysis": "text-classification",
    "image-classification": "image-classification",
    "automatic-speech-recognition": "transcription", "text-to-audio": "speech-synthesis",
    "text-to-speech": "speech-synthesis",
}  # fmt: skip


def find_model(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The weights of the flavor that is taken, and what MLmodel tells for the card."""
    description = read_description(folder)
    flavors: dict[str, Any] = description.get("flavors", {})
    pyfunc = flavors.get("python_function")
    pyfunc = pyfunc if isinstance(pyfunc, dict) else {}
    loader = str(pyfunc.get("loader_module", ""))
    if loader and loader not in WRAPPERS:
        raise BadPackage(
            f"This MLflow model is loaded by {loader[:60]}, which runs code that came with it.",
            hint=LOG_IT,
        )
    for name, flavor in flavors.items():
        if isinstance(flavor, dict) and flavor.get("code"):
            raise BadPackage(f"The flavor {name[:40]} of this MLflow model carries code.")
    takers = {
        "onnx": _onnx, "sklearn": _sklearn, "transformers": _transformers, "pytorch": _pytorch,
    }  # fmt: skip
    for name, take in takers.items():
        if isinstance(flavors.get(name), dict):
            return take(folder, flavors[name])
    if loader and len(flavors) == 1:
        wrapped = _wrapped(pyfunc, description.get("env_vars"))
        return takers[loader.removeprefix("mlflow.")](folder, wrapped)
    known = ", ".join(str(f) for f in flavors) or "none"
    raise BadPackage(
        f"This MLflow model has the flavors {known[:120]}.",
        hint="Taken are onnx, sklearn (skops), pytorch (pt2) and transformers.",
    )


def _wrapped(pyfunc: dict[str, Any], variables: Any) -> dict[str, Any]:
    """The flavor whose weights a pyfunc wraps by one of MLflow's own loaders, which is not called."""
    more = sorted(str(key) for key, value in pyfunc.items() if value and key not in WRAPPING)
    more += ["environment variables"] if variables else []
    more += ["a pickle module"] if pyfunc.get("pickle_module_name", PICKLES) != PICKLES else []
    if more:
        raise BadPackage(
            f"This MLflow pyfunc asks for more than its weights: {', '.join(more)[:120]}.",
            hint=LOG_IT,
        )
    place = next((pyfunc[key] for key in PLACES if pyfunc.get(key)), "model")
    written = "skops" if str(place).endswith(".skops") else ""
    return {
        "data": place, "pickled_model": place, "model_data": place, "model_binary": place,
        "serialization_format": written,
    }  # fmt: skip


def read_description(folder: Path) -> dict[str, Any]:
    """`MLmodel` as data; BadPackage unless it is a small YAML file with flavors."""
    path = folder / "MLmodel"
    try:
        if path.is_symlink() or path.stat().st_size > MAX_DESCRIPTION:
            raise BadPackage("MLmodel is not a small regular file.")
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise BadPackage("MLmodel cannot be read.") from error
    if not isinstance(found, dict) or not isinstance(found.get("flavors"), dict):
        raise BadPackage("MLmodel is not a description of a model.")
    _bounded(found)
    return found


def _bounded(root: Any) -> None:
    """BadPackage for YAML whose anchors stand for far more than its text, or for themselves."""
    stack, count = [root], 0
    while stack:
        node = stack.pop()
        count += 1
        if count > MAX_VALUES:
            raise BadPackage(f"MLmodel holds more than {MAX_VALUES} values.")
        if isinstance(node, dict):
            stack += [*node.keys(), *node.values()]
        elif isinstance(node, list | tuple | set):
            stack += node


def _inside(folder: Path, name: Any, what: str) -> Path:
    if not isinstance(name, str):
        raise BadPackage(f"MLmodel does not say where its {what} lies.")
    path = folder / check_relative(name)
    if path.is_symlink() or not path.exists():
        raise BadPackage(f"MLmodel names {name[:80]!r}, which is not beside it.")
    return path


def _onnx(folder: Path, flavor: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    path = _inside(folder, flavor.get("data"), "graph")
    if path.suffix != ".onnx":
        raise BadPackage(f"MLmodel names {path.name[:80]!r} as its graph, which is no .onnx file.")
    return path, {}


def _sklearn(folder: Path, flavor: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    path = _inside(folder, flavor.get("pickled_model"), "model")
    if flavor.get("serialization_format") != "skops" or path.suffix != ".skops":
        raise BadPackage(
            "This scikit-learn model was logged as a pickle, which can run any code.",
            hint="Log it with mlflow.sklearn.log_model(..., serialization_format='skops').",
        )
    return path, {}


def _pytorch(folder: Path, flavor: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    data = _inside(folder, flavor.get("model_data"), "model")
    found = sorted(data.glob("*.pt2")) if data.is_dir() else [data]
    if len(found) != 1 or found[0].suffix != ".pt2":
        raise BadPackage(
            "This torch model was logged as a pickle, which can run any code.",
            hint="Log it with mlflow.pytorch.log_model(..., serialization_format='pt2', "
            f"input_example=example). {SAVE_SAFELY['torch']}",
        )
    return found[0], {}


def _transformers(folder: Path, flavor: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    if flavor.get("peft_adaptor"):
        raise BadPackage("This transformers model is an adapter (peft) of another one.")
    kind = flavor.get("pipeline_model_type", "")
    if not (isinstance(kind, str) and re.fullmatch(r"([A-Z]\w*For[A-Z]\w*|VitsModel|)", kind)):
        raise BadPackage(f"MLmodel names the pipeline_model_type {str(kind)[:60]!r}.")
    model = _inside(folder, flavor.get("model_binary", "model"), "model")
    if not model.is_dir():
        raise BadPackage("This transformers model is not a folder that save_pretrained wrote.")
    told = TRANSFORMERS_TASKS.get(str(flavor.get("task", "")), "")
    for part in ("tokenizer", "components/tokenizer", "feature_extractor", "processor"):
        extra = folder / part
        if extra.is_dir() and not extra.is_symlink():
            for path in sorted(extra.iterdir()):
                if path.is_file() and not (model / path.name).exists():
                    (model / path.name).write_bytes(path.read_bytes())
    return model, {"task": told} if told else {}
