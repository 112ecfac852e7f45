"""What a folder for the `transformers` runtime may hold, and whether its weights are complete.

A folder of this kind can ask for more than numbers: code (`auto_map`), kernels fetched from a
hub (an attention implementation named like a repository), an adapter of another model. All of
that is refused; the classes are those of the installed library.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from citybrain.core.errors import BadPackage
from citybrain.models.package import UNSAFE, Package, package_files

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
FORBIDDEN = {
    "auto_map", "quantization_config", "kernel_config", "use_kernels", "custom_generate",
    "trust_remote_code",
}  # fmt: skip
SIZES = re.compile(
    r"hidden_size|intermediate_size|vocab_size|d_model|\w+_ffn_dim|\w*_heads|\w*layers"
)
"""Numbers that decide how much is built, and which are never larger than the weights' bytes."""
MAX_LAYERS = 1000
IMPLEMENTATIONS = {"attn_implementation", "experts_implementation"}


def check_files(folder: Path) -> None:
    """Raise BadPackage unless every file of the folder may lie beside weights that are loaded."""
    for path in package_files(folder):
        if path.suffix.lower() in UNSAFE:
            raise BadPackage(
                f"{path.name} may hold a pickle, which can run code when loaded.",
                hint=f"Save weights as {WEIGHTS}.",
            )
        if path.name.startswith("adapter_") or path.name.endswith(".index.json"):
            raise BadPackage(
                f"{path.name}: adapters and weights in several files are not served.",
                hint=f"Merge them and save one {WEIGHTS}.",
            )
    if not (folder / WEIGHTS).is_file():
        raise BadPackage(
            f"The folder lacks {WEIGHTS}.", hint="Save it with model.save_pretrained(folder)."
        )
    for path in [folder / CONFIG, *sorted(folder.glob("*_config.json"))]:
        _check_config(path, (folder / WEIGHTS).stat().st_size)


def read_object(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object, or BadPackage."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadPackage(f"{path.name} is not JSON that can be read.") from error
    if not isinstance(found, dict):
        raise BadPackage(f"{path.name} is not a JSON object.")
    return found


def preprocessor(folder: Path) -> dict[str, Any]:
    """What the folder says of its features: `preprocessor_config.json`, or what stands for it.

    A processor of several parts saves one `processor_config.json` with a part for each; a folder
    with neither file says nothing.
    """
    if (path := folder / "preprocessor_config.json").is_file():
        return read_object(path)
    if (path := folder / "processor_config.json").is_file():
        part = read_object(path).get("feature_extractor")
        return part if isinstance(part, dict) else {}
    return {}


def check_keys(found: dict[str, Any]) -> None:
    """Missing weights would be random numbers, unknown ones the sign of another model."""
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = sorted(key if isinstance(key, str) else str(key[0]) for key in found.get(kind, ()))
        if keys:
            raise BadPackage(
                f"{WEIGHTS}: {kind.replace('_keys', '')} weights: {', '.join(keys[:5])[:300]}.",
                hint="Save the whole model of this task with save_pretrained.",
            )


def check_labels(package: Package, model: Any) -> None:
    """The manifest's labels are as many as the model's and, where both name them, in its order."""
    labels = package.manifest.options.get("labels")
    if not package.manifest.task.endswith("classification") or not isinstance(labels, list):
        return
    if model.config.num_labels != len(labels):
        raise BadPackage(
            f"algorithm.yaml lists {len(labels)} labels, the model has {model.config.num_labels}."
        )
    names = [model.config.id2label[index] for index in range(len(labels))]
    if names != labels and sorted(names) == sorted(map(str, labels)):
        raise BadPackage(f"algorithm.yaml lists the labels in another order than {CONFIG}.")


def _check_config(path: Path, weights: int) -> None:
    stack: list[Any] = [read_object(path)]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack += node
        if not isinstance(node, dict):
            continue
        stack += node.values()
        for key, value in node.items():
            plain = key.lstrip("_").removesuffix("_internal")
            if plain in FORBIDDEN and value:
                raise BadPackage(
                    f"{path.name}: {key} asks for code or kernels beyond the installed library.",
                    hint="Only architectures of the transformers library itself are served.",
                )
            if SIZES.fullmatch(plain) and isinstance(value, int | float | str):
                most = MAX_LAYERS if plain.endswith("layers") else max(weights, 4096)
                if not isinstance(value, int) or not 0 <= value <= most:
                    raise BadPackage(f"{path.name}: {key} is not a number up to {most}.")
            if plain in IMPLEMENTATIONS and value not in (None, "eager", "sdpa"):
                raise BadPackage(f"{path.name}: {key} may only be 'eager' or 'sdpa'.")
