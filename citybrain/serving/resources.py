"""What a deployment's replicas may have: CPUs, GPUs, a place with others; what could not take effect."""

from __future__ import annotations

import os
from typing import NamedTuple

from citybrain.core.errors import InvalidInput
from citybrain.core.schemas import Deployment, NewDeployment
from citybrain.models.package import Manifest
from citybrain.models.runtime import RUNTIMES


class Capacity(NamedTuple):
    """What Ray may give to replicas."""

    cpus: float
    """Of its largest node; `CITYBRAIN_SERVING__RAY_CPUS` says how many of them a core is."""
    gpus: float
    all_cpus: float
    all_gpus: float
    cores: float

    @classmethod
    def of(cls, nodes: list[dict[str, float]]) -> Capacity:
        """Of the resources of every living node."""
        cpus, gpus = ([node.get(kind, 0.0) for node in nodes] for kind in ("CPU", "GPU"))
        alone = len(nodes) == 1  # of other machines nobody here knows the cores
        cores = float(os.cpu_count() or 1) if alone else float("inf")
        return cls(max(cpus, default=0.0), max(gpus, default=0.0), sum(cpus), sum(gpus), cores)


def refuse_resources(
    wanted: Deployment | NewDeployment, manifest: Manifest, capacity: Capacity | None
) -> None:
    """InvalidInput for CPUs and GPUs that a replica could not have; `capacity` None: not known yet."""
    name, runtime = manifest.name, RUNTIMES.get(manifest.runtime)
    if wanted.cpus == 1 and not wanted.gpus:
        return
    if runtime.composed or runtime.remote:
        why = (
            "is a pipeline, which runs in the gateways"
            if runtime.composed
            else "lies on another server, which has its own"
        )
        raise InvalidInput(f"{name} {why}.", hint="Deploy it without CPUs and GPUs.")
    if capacity is None:
        return
    if wanted.gpus and not capacity.gpus:
        raise InvalidInput("This machine has no GPU.", hint=f"Deploy {name} without --gpus.")
    if wanted.gpus > capacity.gpus:
        raise InvalidInput(
            f"A replica of {name} cannot have {wanted.gpus:g} GPUs: a machine has {capacity.gpus:g}."
        )
    if wanted.cpus > capacity.cores:
        raise InvalidInput(
            f"A replica of {name} cannot use {wanted.cpus} CPUs: "
            f"this machine has {capacity.cores:g}.",
            hint="More threads than CPUs only get in each other's way.",
        )
    if wanted.cpus > capacity.cpus:
        raise InvalidInput(
            f"A replica of {name} cannot have {wanted.cpus} CPUs: Ray gives {capacity.cpus:g}.",
            hint="Start the platform with a larger CITYBRAIN_SERVING__RAY_CPUS.",
        )


def refuse_replicas(manifest: Manifest) -> None:
    """InvalidInput for a number or a range of replicas where there are none."""
    if RUNTIMES.get(manifest.runtime).composed:
        raise InvalidInput(
            f"{manifest.name} is a pipeline: it runs in the gateways and has no replicas.",
            hint=f"citybrain deploy {manifest.name}, and replicas for its algorithms.",
        )


def refuse_sharing(manifest: Manifest) -> None:
    """InvalidInput for a model that could not share a replica with others."""
    runtime = RUNTIMES.get(manifest.runtime)
    if runtime.composed:
        why = "is a pipeline, which has no replica to share"
    elif runtime.remote:
        why = "lies on another server, whose answers its neighbours would wait for"
    else:
        return
    raise InvalidInput(f"{manifest.name} {why}.", hint="Deploy it without `shared`.")


def refuse_number(new: NewDeployment, name: str, capacity: Capacity | None) -> None:
    """InvalidInput for more replicas than could ever run at once, were there nothing else."""
    if capacity is None or new.shared:
        return
    for word, each, most in (
        ("CPUs", float(new.cpus), capacity.all_cpus),
        ("GPUs", new.gpus, capacity.all_gpus),
    ):
        if new.most * each > most:
            raise InvalidInput(
                f"{new.most} replicas of {name} with {each:g} {word} each never run at once: "
                f"Ray has {most:g} to give.",
                hint="Ask for fewer" + (
                    ", or set a larger CITYBRAIN_SERVING__RAY_CPUS." if word == "CPUs" else "."
                ),
            )  # fmt: skip
