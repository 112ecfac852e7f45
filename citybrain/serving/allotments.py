"""What a department's deployments take together, and never more than it was allotted.

It is looked at when a deployment is asked for, and when a version is promoted to where one follows; a
rollback is never refused. What runs already goes on, whatever is allotted later, and may be asked for anew as
long as that takes no more than before.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable

from citybrain.core.errors import AllotmentExceeded, CityBrainError
from citybrain.core.names import Ref
from citybrain.core.schemas import Actor, Deployment, NewDeployment
from citybrain.core.schemas.quotas import Allotment, AllotmentUse, Taken
from citybrain.models.package import package_files
from citybrain.models.runtime import RUNTIMES
from citybrain.registry.catalogue import Catalogue
from citybrain.storage.records.deployments import Deployments
from citybrain.storage.records.history import History
from citybrain.storage.records.quotas import Quotas

WORDS = {"replicas": "replicas", "cpus": "CPUs", "gpus": "GPUs", "memory": "bytes of models"}


class Allotments:
    """Asks for deployments, within what their algorithms' owners may take."""

    def __init__(
        self, quotas: Quotas, history: History, deployments: Deployments, catalogue: Catalogue
    ) -> None:
        self._quotas = quotas
        self._history = history
        self._deployments = deployments
        self._catalogue = catalogue
        self._one_at_a_time = threading.Lock()  # only the control process asks for deployments
        self._sizes: dict[str, int] = {}

    def want(self, name: str, new: NewDeployment, actor: Actor) -> Deployment:
        """Ask for a deployment; AllotmentExceeded where it would take what is not left."""
        with self._one_at_a_time:
            self._check(name, new)
            return self._deployments.want(
                name, new.target, new.most, actor, new.scaling, shared=new.shared, cpus=new.cpus,
                gpus=new.gpus,
            )  # fmt: skip

    def check_move(self, name: str, alias: str, version: int) -> None:
        """AllotmentExceeded where the deployment that follows an alias would take too much with a version."""
        for found in self._deployments.all():
            if (found.algorithm, found.target) == (name, alias) and found.state != "removing":
                self._check(name, found, version)

    def used(self) -> list[AllotmentUse]:
        """Every allotment, and what its department's deployments take now."""
        return [
            AllotmentUse(allotment=found, taken=together(self._parts(found.department).values()))
            for found in self._quotas.allotments()
        ]

    def _check(self, name: str, new: Deployment | NewDeployment, version: int = 0) -> None:
        owner = self._history.algorithms()[name][0]
        allotted = next((a for a in self._quotas.allotments() if a.department == owner), None)
        if allotted is None:
            return
        parts = self._parts(owner)
        before = together(parts.values())
        parts[name, new.target] = self._part(name, new, version)
        check_fits(allotted, f"{name}@{new.target}", before, together(parts.values()))

    def _parts(self, department: str) -> dict[tuple[str, str], tuple[bool, Taken]]:
        owners = self._history.algorithms()
        return {
            (found.algorithm, found.target): self._part(found.algorithm, found)
            for found in self._deployments.all()
            if found.state != "removing" and owners.get(found.algorithm, ("",))[0] == department
        }

    def _part(
        self, name: str, wanted: Deployment | NewDeployment, version: int = 0
    ) -> tuple[bool, Taken]:
        """Whether it shares a replica, and what it takes alone; with another version than now, if one is named."""
        runtime, size = "", 0
        with contextlib.suppress(CityBrainError):  # what cannot be read does not start either
            version = version or self._catalogue.pointed(Ref(name, wanted.target))
            runtime, size = self._read(name, version)
        if runtime and RUNTIMES.get(runtime).composed:
            return False, Taken()  # it runs in the gateways
        if wanted.shared:
            return True, Taken(memory=size)
        most = wanted.most if isinstance(wanted, NewDeployment) else wanted.replicas
        return False, Taken(
            replicas=most, cpus=most * wanted.cpus, gpus=most * wanted.gpus, memory=most * size
        )

    def _read(self, name: str, version: int) -> tuple[str, int]:
        folder, digest = self._catalogue.folder(name, version)
        if digest not in self._sizes:
            self._sizes[digest] = sum(path.stat().st_size for path in package_files(folder))
        return self._catalogue.manifest(name, version).runtime, self._sizes[digest]


def together(parts: Iterable[tuple[bool, Taken]]) -> Taken:
    """The sum; all that share a replica take one, with one CPU, however many they are."""
    found = list(parts)
    sharing = any(shared for shared, _ in found)
    return Taken(
        replicas=sharing + sum(taken.replicas for _, taken in found),
        cpus=sharing + sum(taken.cpus for _, taken in found),
        gpus=sum(taken.gpus for _, taken in found),
        memory=sum(taken.memory for _, taken in found),
    )


def check_fits(allotted: Allotment, what: str, before: Taken, after: Taken) -> None:
    """AllotmentExceeded for what takes more than is allotted, and more than was taken before."""
    for name, word in WORDS.items():
        most = getattr(allotted, name)
        had, has = getattr(before, name), getattr(after, name)
        if most is None or has <= most or has <= had:
            continue
        raise AllotmentExceeded(
            f"{what} needs {has - had:.10g} {word} more, and {allotted.department} has "
            f"{max(0, most - had):.10g} left: its deployments may take {most:.10g} together and take "
            f"{had:.10g}.",
            hint="Ask for fewer or take one down (citybrain deploy NAME --remove), or an admin allots "
            f"more: citybrain quotas allot {allotted.department} --{name} {has:.10g}",
        )  # fmt: skip
