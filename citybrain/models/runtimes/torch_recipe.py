"""`torch`: a state dict in safetensors, loaded into the network of the recipe that trained it.

The code of the network is ours (`lineage.recipe` names it); the package brings only numbers, so
loading one never runs code of a stranger. A network's `forward` takes the prepared tensors by
name and returns one tensor (served as `output`) or a dict of tensors by name.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from citybrain.core.errors import BadPackage, PluginNotFound
from citybrain.core.shelf import needs
from citybrain.core.tensors import Array, Tensors
from citybrain.models.package import Package
from citybrain.models.recipe import RECIPES
from citybrain.models.runtime import RUNTIMES, Runtime
from citybrain.models.torch_onnx import as_module


@RUNTIMES.add("torch")
class TorchRecipe(Runtime):
    """Weights: one `.safetensors` file whose keys are exactly the network's."""

    def load(self, package: Package, *, threads: int = 1) -> None:
        _recipe(package)  # before torch, which takes seconds to import
        with needs():
            import torch
        torch.set_num_threads(threads)
        network = _network(package)
        state = _state(package)
        wrong = sorted(network.state_dict().keys() ^ state.keys())
        if wrong:
            raise BadPackage(
                f"{package.manifest.weights}: missing or unknown weights: {', '.join(wrong[:5])}.",
                hint="Train the package again with the recipe that lineage.recipe names.",
            )
        try:
            network.load_state_dict(state, strict=True)
        except RuntimeError as error:  # torch tells every size that differs, a line each
            reason = str(error).splitlines()[-1].strip()[:200]
            raise BadPackage(f"{package.manifest.weights}: {reason}") from error
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._network: Any = network.eval().to(self._device)

    def infer(self, inputs: Tensors) -> Tensors:
        import torch

        with torch.inference_mode():
            outputs = self._forward({n: self._tensor(array) for n, array in inputs.items()})
        return {name: _array(tensor) for name, tensor in outputs.items()}

    def network(self) -> Any:
        return as_module(self._network, self._forward)

    def _forward(self, tensors: dict[str, Any]) -> dict[str, Any]:
        found = self._network(**tensors)
        return found if isinstance(found, dict) else {"output": found}

    def describe(self) -> dict[str, str]:
        import torch

        size = sum(weight.numel() for weight in self._network.parameters())
        return {
            "library": f"torch {torch.__version__}",
            "device": self._device.upper(),
            "parameters": str(size),
        }

    def close(self) -> None:
        self._network = None

    def _tensor(self, array: Array) -> Any:
        import torch

        # An array on top of a request's bytes is read-only, and torch shares memory: then copy.
        owned = np.require(array, requirements=("C", "W"))
        return torch.from_numpy(owned).to(self._device)


def _recipe(package: Package) -> Any:
    recipe = package.manifest.lineage.recipe
    if not recipe:
        raise BadPackage("algorithm.yaml: lineage.recipe: the torch runtime needs it.")
    try:
        return RECIPES.get(recipe)
    except PluginNotFound as error:
        raise BadPackage(f"algorithm.yaml: lineage.recipe: {error}") from error


def _network(package: Package) -> Any:
    """The recipe's network for these options; whatever goes wrong is the package's fault."""
    recipe = package.manifest.lineage.recipe
    try:
        return _recipe(package).network(package.manifest.options)
    except (KeyError, TypeError, ValueError, RuntimeError, MemoryError) as error:
        raise BadPackage(
            f"algorithm.yaml: options: the network of {recipe} cannot be built: "
            f"{type(error).__name__}: {str(error)[:200]}."
        ) from error


def _state(package: Package) -> dict[str, Any]:
    with needs():
        from safetensors import SafetensorError
        from safetensors.torch import load
    name = package.manifest.weights
    if package.weights.suffix != ".safetensors":
        raise BadPackage(f"The torch runtime loads .safetensors files, not {name}.")
    try:
        # From bytes, not from a mapped file: a file changed later must not change a live model.
        return dict(load(package.weights.read_bytes()))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise BadPackage(f"{name} is not a safetensors file: {str(error)[:200]}.") from error


def _array(tensor: Any) -> Array:
    import torch

    if tensor.dtype == torch.bfloat16:  # numpy has no such type
        tensor = tensor.float()
    array: Array = tensor.cpu().numpy()
    return array
