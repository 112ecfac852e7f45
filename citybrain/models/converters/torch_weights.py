"""`torch-weights`: a state dict alone, for an architecture that torchvision has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from citybrain.core.errors import BadPackage
from citybrain.core.shelf import needs
from citybrain.models.converter import CONVERTERS, Converter, Draft, Wanted
from citybrain.models.torch_onnx import to_onnx

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
"""Of ImageNet, which torchvision's classifiers are trained with."""


@CONVERTERS.add("torch-weights")
class TorchWeightsToOnnx(Converter):
    """The architecture is told (`--architecture torchvision:NAME`) or stands in the file's name."""

    takes = (".pt", ".pth", ".safetensors")

    def convert(self, source: Path, out: Path, wanted: Wanted) -> Draft:
        with needs():
            import torch
            import torchvision
        name = _architecture(source, wanted)
        state = _state(source)
        with torch.device("meta"):
            classes = _classes(torchvision.models.get_model(name, weights=None), state)
        network = torchvision.models.get_model(name, weights=None, num_classes=classes)
        try:
            network.load_state_dict(state)
        except (RuntimeError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise BadPackage(f"{source.name} is not a state dict of {name}: {reason}") from error
        size = int(wanted.options.get("image_size", 224))
        rows = torch.export.Dim("rows", min=1, max=4096)
        program = torch.export.export(
            network.eval(), (torch.zeros(2, 3, size, size),), dynamic_shapes=({0: rows},)
        )
        draft = to_onnx(program, out, {
            "library": f"torch {torch.__version__}, torchvision {torchvision.__version__}",
            "architecture": name,
        })  # fmt: skip
        draft.task = "image-classification"
        draft.options = {
            "labels": [f"class-{index}" for index in range(classes)],
            "image_size": size, "mean": MEAN, "std": STD,
        }  # fmt: skip
        return draft


def _architecture(source: Path, wanted: Wanted) -> str:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    told = wanted.architecture.removeprefix("torchvision:")
    name = told or re.sub(r"-[0-9a-f]{8}$", "", source.stem)
    if name in known:
        return str(name)
    if told:
        raise BadPackage(f"torchvision has no classifier called {told[:80]!r}.")
    raise BadPackage(
        f"{source.name} holds weights without an architecture.",
        hint="Name it: --architecture torchvision:NAME; or save the whole program with "
        "torch.export.save as .pt2.",
    )


def _state(source: Path) -> dict[str, Any]:
    import torch

    if source.suffix == ".safetensors":
        from safetensors.torch import load

        return dict(load(source.read_bytes()))
    # Admission has read the pickle's names already; weights_only decides again, name by name.
    state = torch.load(source, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise BadPackage(f"{source.name} is not a state dict: names with tensors.")
    return {str(name).removeprefix("module."): tensor for name, tensor in state.items()}


def _classes(network: Any, state: dict[str, Any]) -> int:
    """How many outputs these weights have: rows of the architecture's last layer."""
    import torch

    layers = [n for n, m in network.named_modules() if isinstance(m, torch.nn.Linear)]
    layers = layers or [n for n, m in network.named_modules() if isinstance(m, torch.nn.Conv2d)]
    last = state.get(f"{layers[-1]}.weight")
    if last is None:
        raise BadPackage(f"The state dict lacks {layers[-1]}.weight, the last layer's weights.")
    return int(last.shape[0])
