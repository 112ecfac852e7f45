"""What a gateway knows of the tables at one moment: keys, grants, and where each algorithm runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from citybrain.core.addresses import Network
from citybrain.core.levels import Level
from citybrain.core.schemas import Grant, Key
from citybrain.core.schemas.quotas import Quota
from citybrain.core.schemas.traffic import Traffic
from citybrain.core.tensors import Signature
from citybrain.models.package import Manifest
from citybrain.models.pipeline import Pipeline
from citybrain.models.task import Task
from citybrain.serving.gateway.notice import Notice

if TYPE_CHECKING:
    from citybrain.serving.gateway.permits import Permit

MAX_NESTED = 4
"""Pipelines that call one another."""


@dataclass(frozen=True, eq=False)
class Route:
    """A deployment that answers: its Serve application, version and task."""

    algorithm: str
    target: str
    app: str
    version: int
    replicas: int
    """How many run at least; when asleep, the one that a call wakes."""
    manifest: Manifest
    task: Task
    signature: Signature
    feature_service: str
    plan: Pipeline | None = None
    """The steps, where other algorithms answer."""
    notice: Notice | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """The notice's headers; none while nothing is retired."""
    shared: bool = False
    """Whether the replica answers for other algorithms, too."""


@dataclass(frozen=True)
class Snapshot:
    """One consistent look at the tables; replaced whole, never changed."""

    revision: int = -1
    keys: dict[str, Key] = field(default_factory=dict)
    by_id: dict[str, Key] = field(default_factory=dict)
    grants: dict[tuple[str, str], dict[str, Grant]] = field(default_factory=dict)
    """Living grants by department and algorithm, then by purpose."""
    suspended: dict[tuple[str, str], str] = field(default_factory=dict)
    """What is stopped (`grant` and its id, `algorithm` and its name, …), and why."""
    pins: dict[tuple[str, str], int] = field(default_factory=dict)
    """Departments that stay with a version of an algorithm."""
    levels: dict[Route, Level] = field(default_factory=dict)
    """How sensitive each deployment's answers are."""
    quotas: dict[str, list[Quota]] = field(default_factory=dict)
    """Limits by department."""
    permits: dict[tuple[str, str, str], Permit] = field(default_factory=dict)
    """What was worked out already, by key, algorithm and stated purpose."""
    routes: dict[str, list[Route]] = field(default_factory=dict)
    troubles: dict[tuple[str, str], str] = field(default_factory=dict)
    """Of deployments that run and do not answer (a server that they need is silent): the reason."""
    waiting: dict[str, str] = field(default_factory=dict)
    """Deployments that do not answer yet: `algorithm` to its state."""
    known: frozenset[str] = frozenset()
    notices: dict[tuple[str, int], Notice] = field(default_factory=dict)
    """Retirements in force by algorithm and version; version 0: the whole algorithm."""
    traffic: dict[str, Traffic] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    """Share of calls that the prediction log keeps, of algorithms that have a rate of their own."""
    ready: bool = False
    networks: dict[str, tuple[Network, ...]] = field(default_factory=dict)
    """Where keys may come from that may not come from everywhere, by their ids."""

    def trouble(self, route: Route) -> str:
        """Why this deployment runs and does not answer; empty: it answers."""
        return self.troubles.get((route.algorithm, route.target), "")


def levels_of(
    routes: dict[str, list[Route]], lowered: dict[tuple[str, str], Level]
) -> dict[Route, Level]:
    """How sensitive each deployment's answers are: as its card says, as its steps are, or lowered."""

    def level(route: Route, depth: int = 0) -> Level:
        if (less := lowered.get(("algorithm", route.algorithm))) is not None:
            return min(less, route.manifest.level)
        found = [route.manifest.level]
        if route.plan is not None and depth < MAX_NESTED:
            for ref in route.plan.refs():
                found += [level(step, depth + 1) for step in routes.get(ref.algorithm, ())]
        return max(found)

    return {route: level(route) for several in routes.values() for route in several}


def longer(one: Grant | None, other: Grant) -> Grant:
    """Of two grants for the same, the one that ends later."""
    if one is None or (one.until is not None and (other.until is None or other.until > one.until)):
        return other
    return one
