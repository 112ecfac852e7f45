"""`pipeline`: steps that other algorithms answer, written down as data in `pipeline.yaml`."""

from __future__ import annotations

from citybrain.core.errors import BadPackage
from citybrain.core.tensors import Tensors
from citybrain.models.package import Package
from citybrain.models.pipeline import read_pipeline
from citybrain.models.runtime import RUNTIMES, Runtime


@RUNTIMES.add("pipeline")
class PipelineRuntime(Runtime):
    """Holds no model: a gateway carries a call from step to step, and no replica is needed."""

    composed = True

    def load(self, package: Package, *, threads: int = 1) -> None:
        read_pipeline(package.weights)

    def infer(self, inputs: Tensors) -> Tensors:
        raise BadPackage(
            "A pipeline answers where its algorithms are deployed, not by itself.",
            hint="Deploy it, and call it like any algorithm.",
        )
