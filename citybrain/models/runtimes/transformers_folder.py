"""`transformers`: a local folder of config.json and model.safetensors, nothing from a hub.

A folder of this kind can ask for more than numbers: code (`auto_map`), kernels fetched from a
hub (an attention implementation named like a repository), an adapter of another model. All of
that is refused; the classes are those of the installed library.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from citybrain.core.errors import BadPackage
from citybrain.core.shelf import needs
from citybrain.core.tensors import Array, Tensors
from citybrain.models.package import UNSAFE, Package, package_files
from citybrain.models.runtime import RUNTIMES, Runtime

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CLASSES = {
    "text-classification": "AutoModelForSequenceClassification",
    "image-classification": "AutoModelForImageClassification",
    "transcription": "AutoModelForCTC",
}
FORBIDDEN = {
    "auto_map", "quantization_config", "kernel_config", "use_kernels", "trust_remote_code",
}  # fmt: skip
SIZES = re.compile(
    r"hidden_size|intermediate_size|vocab_size|d_model|\w+_ffn_dim|\w*_heads|\w*layers"
)
"""Numbers that decide how much is built, and which are never larger than the weights' bytes."""
MAX_LAYERS = 1000
IMPLEMENTATIONS = {"attn_implementation", "experts_implementation"}


@RUNTIMES.add("transformers")
class TransformersFolder(Runtime):
    """Weights: `config.json`, with `model.safetensors` beside it."""

    def load(self, package: Package, *, threads: int = 1) -> None:
        _check_files(package)
        with needs():
            import torch
            import transformers
        torch.set_num_threads(threads)
        transformers.utils.logging.disable_progress_bar()
        try:
            model, found = getattr(transformers, _class_name(package)).from_pretrained(
                str(package.folder),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                dtype=torch.float32,
            )
        except Exception as error:  # many kinds; whichever it is, the folder does not load
            reason = str(error).replace(str(package.folder), package.folder.name)
            first = (reason.strip().splitlines() or [type(error).__name__])[0]
            raise BadPackage(
                f"{CONFIG} and {WEIGHTS} do not load: {first[:200]}",
                hint="Write the folder with save_pretrained.",
            ) from error
        _check_keys(found)
        _check_labels(package, model)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model: Any = model.eval().to(self._device)
        self._accepts = set(inspect.signature(model.forward).parameters)

    def infer(self, inputs: Tensors) -> Tensors:
        import torch

        with torch.inference_mode():
            found = self._model(**self._arguments(inputs)).logits
        outputs = {"logits": found.float().cpu().numpy()}
        if "lengths" in inputs and hasattr(self._model, "_get_feat_extract_output_lengths"):
            frames = torch.from_numpy(inputs["lengths"].astype(np.int64))
            valid = self._model._get_feat_extract_output_lengths(frames)  # noqa: SLF001 - the only way to know how many frames are padding
            outputs["lengths"] = valid.numpy().astype(np.int64)
        return outputs

    def describe(self) -> dict[str, str]:
        import torch
        import transformers

        return {
            "library": f"transformers {transformers.__version__}, torch {torch.__version__}",
            "device": self._device.upper(),
            "architecture": type(self._model).__name__,
            "parameters": str(sum(weight.numel() for weight in self._model.parameters())),
        }

    def close(self) -> None:
        self._model = None

    def _arguments(self, inputs: Tensors) -> dict[str, Any]:
        """The inputs under the model's own names: its main input, and a mask for `lengths`."""
        named = {name: array for name, array in inputs.items() if name in self._accepts}
        other = [name for name in inputs if name not in self._accepts and name != "lengths"]
        main = self._model.main_input_name
        if main not in named and len(other) == 1:
            named[main] = inputs[other[0]]
        if "lengths" in inputs and "attention_mask" in self._accepts:
            steps = np.arange(named[main].shape[1])
            named["attention_mask"] = (steps < inputs["lengths"][:, None]).astype(np.int64)
        return {name: self._tensor(array) for name, array in named.items()}

    def _tensor(self, array: Array) -> Any:
        import torch

        # An array on top of a request's bytes is read-only, and torch shares memory: then copy.
        owned = np.require(array, requirements=("C", "W"))
        return torch.from_numpy(owned).to(self._device)


def _class_name(package: Package) -> str:
    task = package.manifest.task
    if task not in CLASSES:
        raise BadPackage(
            f"The transformers runtime does not serve the task {task}.",
            hint=f"It serves: {', '.join(sorted(CLASSES))}.",
        )
    return CLASSES[task]


def _check_files(package: Package) -> None:
    if package.manifest.weights != CONFIG:
        raise BadPackage(f"weights must be {CONFIG!r}, not {package.manifest.weights[:80]!r}.")
    _class_name(package)
    for path in package_files(package.folder):
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
    if not (package.folder / WEIGHTS).is_file():
        raise BadPackage(f"The folder lacks {WEIGHTS}.")
    for path in [package.folder / CONFIG, *sorted(package.folder.glob("*_config.json"))]:
        _check_config(path, (package.folder / WEIGHTS).stat().st_size)


def _check_config(path: Path, weights: int) -> None:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadPackage(f"{path.name} is not JSON that can be read.") from error
    if not isinstance(config, dict):
        raise BadPackage(f"{path.name} is not a JSON object.")
    stack: list[Any] = [config]
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
                if type(value) is not int or not 0 <= value <= most:
                    raise BadPackage(f"{path.name}: {key} is not a number up to {most}.")
            if plain in IMPLEMENTATIONS and value not in (None, "eager", "sdpa"):
                raise BadPackage(f"{path.name}: {key} may only be 'eager' or 'sdpa'.")


def _check_keys(found: dict[str, Any]) -> None:
    """Missing weights would be random numbers, unknown ones the sign of another model."""
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = sorted(key if isinstance(key, str) else str(key[0]) for key in found.get(kind, ()))
        if keys:
            raise BadPackage(
                f"{WEIGHTS}: {kind.replace('_keys', '')} weights: {', '.join(keys[:5])[:300]}.",
                hint="Save the whole model of this task with save_pretrained.",
            )


def _check_labels(package: Package, model: Any) -> None:
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
