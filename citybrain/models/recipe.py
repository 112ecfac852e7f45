"""What a recipe is: how this project makes data for an algorithm and trains it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from citybrain.core.errors import BadData, BadPackage
from citybrain.core.shelf import Shelf

if TYPE_CHECKING:
    from torch import nn

Progress = Callable[[float, str], None]
"""Called with the share done (0 to 1) and what is being done."""


def quiet(share: float, what: str) -> None:
    """A progress callback for callers who do not watch."""


class Recipe(ABC):
    """Generate, train, package. A subclass is one file in `recipes/`, named like its algorithm."""

    task: ClassVar[str]
    summary: ClassVar[str]
    budget: ClassVar[float]
    """Seconds of training on two cores that the starter needs."""
    patience = 1.0
    """How many times as long as planned the steps may take, on a machine that is slower or busy."""
    settable: ClassVar[tuple[str, ...]] = ()
    """Attributes that `train --set name=value` may change, numbers or texts."""

    def set(self, name: str, value: str) -> None:
        """Change one of the settable attributes; it keeps its type."""
        if name not in self.settable:
            known = ", ".join(self.settable) or "none"
            raise BadData(f"This recipe has no setting {name[:40]!r}.", hint=f"Settings: {known}.")
        kind = type(getattr(self, name))
        try:
            setattr(self, name, kind(value))
        except ValueError as error:
            raise BadData(f"{name} must be of type {kind.__name__}, not {value[:40]!r}.") from error

    @abstractmethod
    def generate(self, folder: Path, *, seed: int, part: str) -> Path:
        """Write generated data in the task's data format; return the path to hand to `train`.

        `part` is `train` or `test`; equal seeds give equal bytes, the two parts never overlap.
        """

    @abstractmethod
    def train(
        self, data: Path, out: Path, *, seed: int, budget: float, progress: Progress
    ) -> dict[str, float]:
        """Train on data in the task's format and write a package folder at `out`.

        Splits a validation part off by itself; plans its steps for the budget (seconds), and stops when
        that is over `patience` times; returns the validation metrics. BadData names the first bad line of the data.
        """

    def network(self, options: dict[str, Any]) -> nn.Module:
        """The architecture, for the `torch` runtime to load a state dict into."""
        raise BadPackage("This recipe's weights are not run by the torch runtime.")


RECIPES: Shelf[Recipe] = Shelf("recipe", "citybrain.models.recipes")
