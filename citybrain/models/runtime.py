"""What a runtime is: it loads a package's weights and maps model tensors to model tensors."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from citybrain.core.errors import BadPackage, Cancelled
from citybrain.core.shelf import Shelf
from citybrain.core.tensors import Signature, Tensors
from citybrain.models.package import Package


class Runtime(ABC):
    """One way to load and run a model. A subclass is one file in `runtimes/`."""

    remote: ClassVar[bool] = False
    """Whether the model stays on another server: then admission tries it outside the sandbox."""

    composed: ClassVar[bool] = False
    """Whether other algorithms answer for it: then it runs in gateways, and has no replicas."""

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

    def check(self) -> None:  # noqa: B027 - most runtimes need nobody else
        """RemoteDown while a server that the model stays on is silent; asked every few seconds."""

    def network(self) -> Any:
        """A torch module, `forward(tensors by name) -> tensors by name`, to be exported to ONNX.

        BadPackage says why there is none.
        """
        raise BadPackage(
            "Its weights are served as they are: only networks of torch become ONNX.",
            hint="For a smaller form of an ONNX graph: citybrain convert NAME@VERSION --to int8",
        )

    def stop(self, *, on: bool) -> None:  # noqa: B027 - many cannot: then the call runs to its end
        """`on`, from another thread: the `infer` that runs ends and raises. Off before the next."""

    def close(self) -> None:  # noqa: B027 - most runtimes have nothing to give back
        """Give back what `load` took."""


RUNTIMES: Shelf[Runtime] = Shelf("runtime", "citybrain.models.runtimes")


class Stop:
    """The model calls of one piece of work, which another thread may end."""

    def __init__(self) -> None:
        self.asked = False
        self._lock = threading.Lock()
        self._running: Runtime | None = None

    def ask(self) -> None:
        """End the model call that runs, where its runtime can, and let none begin."""
        with self._lock:
            self.asked = True
            if self._running is not None:
                self._running.stop(on=True)

    def check(self) -> None:
        """Cancelled, if it was asked to end."""
        if self.asked:
            raise Cancelled("Nobody waits for this call any more.")

    def infer(self, runtime: Runtime, inputs: Tensors) -> Tensors:
        """One model call, or Cancelled."""
        with self._lock:
            self.check()
            self._running = runtime
        try:
            return runtime.infer(inputs)
        except Exception:
            self.check()
            raise
        finally:
            with self._lock:
                self._running = None
                if self.asked:
                    runtime.stop(on=False)
