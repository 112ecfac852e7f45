"""`transformers`: a local folder of config.json and model.safetensors, nothing from a hub.

`transformers_checks.py` says what such a folder may hold, `transformers_families.py` how each
family of models is called.
"""

from __future__ import annotations

from typing import Any

from citybrain.core.errors import BadPackage
from citybrain.core.shelf import needs
from citybrain.core.tensors import Tensors
from citybrain.models.package import Package
from citybrain.models.runtime import RUNTIMES, Runtime
from citybrain.models.torch_onnx import as_module
from citybrain.models.transformers_checks import (
    CONFIG,
    WEIGHTS,
    check_files,
    check_keys,
    check_labels,
    read_object,
)
from citybrain.models.transformers_families import Family, family


@RUNTIMES.add("transformers")
class TransformersFolder(Runtime):
    """Weights: `config.json`, with `model.safetensors` beside it."""

    def load(self, package: Package, *, threads: int = 1) -> None:
        if package.manifest.weights != CONFIG:
            raise BadPackage(f"weights must be {CONFIG!r}, not {package.manifest.weights[:80]!r}.")
        check_files(package.folder)
        kind = str(read_object(package.folder / CONFIG).get("model_type", ""))
        name, family_class = family(package.manifest.task, kind)
        with needs():
            import torch
            import transformers
        torch.set_num_threads(threads)
        transformers.utils.logging.disable_progress_bar()
        # What is wrong is an error here; its warnings would fill a line or two of each call.
        transformers.utils.logging.set_verbosity_error()
        try:
            model, found = getattr(transformers, name).from_pretrained(
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
        check_keys(found)
        check_labels(package, model)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._family: Family | None = family_class(
            model.eval().to(self._device), package, self._device
        )

    def infer(self, inputs: Tensors) -> Tensors:
        import torch

        assert self._family
        with torch.inference_mode():
            return self._family.infer(inputs)

    def network(self) -> Any:
        assert self._family
        if self._family.obstacle:
            raise BadPackage(
                f"A {type(self._family.model).__name__} is not converted: {self._family.obstacle}."
            )
        return as_module(self._family.model, self._family.forward)

    def describe(self) -> dict[str, str]:
        import torch
        import transformers

        assert self._family
        model = self._family.model
        return {
            "library": f"transformers {transformers.__version__}, torch {torch.__version__}",
            "device": self._device.upper(),
            "architecture": type(model).__name__,
            "parameters": str(sum(weight.numel() for weight in model.parameters())),
        }

    def close(self) -> None:
        self._family = None
