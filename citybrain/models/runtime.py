"""What a runtime is: it loads a package's weights and maps model tensors to model tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod

from citybrain.core.shelf import Shelf
from citybrain.core.tensors import Signature, Tensors
from citybrain.models.package import Package


class Runtime(ABC):
    """One way to load and run a model. A subclass is one file in `runtimes/`."""

    @abstractmethod
    def load(self, package: Package, *, threads: int = 1) -> None:
        """Read the weights; never runs code or unpickles anything that the package brought."""

    @abstractmethod
    def infer(self, inputs: Tensors) -> Tensors:
        """One model call. The first axis is the batch axis of every input and output."""

    def signature(self) -> Signature | None:
        """The model's own tensors, when the weights tell."""
        return None

    def describe(self) -> dict[str, str]:
        """Facts for people: library version, device, opset and the like."""
        return {}

    def close(self) -> None:  # noqa: B027 - most runtimes have nothing to give back
        """Give back what `load` took."""


RUNTIMES: Shelf[Runtime] = Shelf("runtime", "citybrain.models.runtimes")
