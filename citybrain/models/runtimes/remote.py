"""`triton`: a model that stays on another server, Triton or any of the Open Inference Protocol."""

from __future__ import annotations

from importlib.metadata import version

from citybrain.core.errors import BadPackage
from citybrain.core.tensors import Signature, Tensors
from citybrain.models.package import Package
from citybrain.models.remote import parse_address, read_remote
from citybrain.models.remote_health import RemoteHealth
from citybrain.models.remote_server import RemoteServer
from citybrain.models.runtime import RUNTIMES, Runtime

HEALTH_SECONDS = 2.0
"""Within which the server has to say that the model is ready."""


@RUNTIMES.add("triton")
class TritonRemote(Runtime):
    """Weights: a JSON file with the model's address and its tensors, as they were registered."""

    remote = True

    def load(self, package: Package, *, threads: int = 1) -> None:
        self._model = read_remote(package.weights)
        most, wanted = self._model.rows_at_once(), package.manifest.max_batch
        if wanted > most:
            raise BadPackage(
                f"algorithm.yaml: max_batch is {wanted}; the remote model takes {most} a call."
            )
        address = parse_address(self._model.address)
        self._server = RemoteServer(address)
        # A connection of its own: the other one may be waiting for an answer.
        self._asked = RemoteServer(address, most_seconds=HEALTH_SECONDS)
        self._health = RemoteHealth(self._asked.ready, self._model.address)
        try:
            if changed := self._model.changes(self._server.read()):
                raise BadPackage(
                    f"{self._model.address} is not what was registered: {changed}.",
                    hint="Register it again as a new version.",
                )
        except BaseException:
            self.close()
            raise

    def infer(self, inputs: Tensors) -> Tensors:
        with self._health.call():
            return self._server.infer(self._model, inputs)

    def check(self) -> None:
        self._health.check()

    def signature(self) -> Signature:
        return self._model.signature()

    def describe(self) -> dict[str, str]:
        return {
            "library": f"tritonclient {version('tritonclient')}",
            "server": self._server.name,
            "address": self._model.address,
        }

    def close(self) -> None:
        self._health.close()
        self._server.close()
        self._asked.close()
