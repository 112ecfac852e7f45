"""What a plan for live calls needs to take effect; one that could not is refused with the reason."""

from __future__ import annotations

from dataclasses import dataclass

from citybrain.core.errors import InvalidInput, NotReady
from citybrain.core.levels import Level
from citybrain.core.schemas import Deployment, NewCanary, NewTraffic
from citybrain.serving.rollout.judge import lower_bound


@dataclass(frozen=True)
class Running:
    """A deployment that answers."""

    version: int
    composed: bool
    """Whether it is a pipeline."""
    level: Level

    @classmethod
    def of(cls, deployment: Deployment) -> Running:
        """What the reconciler wrote down."""
        found = deployment.running
        level = found["manifest"].get("level", Level.INTERNAL)
        return cls(int(found["version"]), "plan" in found, Level(level))


def check_traffic(name: str, new: NewTraffic, running: dict[str, Running], patience: float) -> None:
    """InvalidInput for a plan, or a part of one, that would change nothing.

    `patience`: seconds after which a call is given up anyway.
    """
    for target in [share.target for share in new.split] + new.fallback + [new.shadow]:
        if target and target not in running:
            raise InvalidInput(
                f"{name}@{target} does not run, so it cannot answer calls.",
                hint=f"First: citybrain deploy {name} --target {target}",
            )
    answering = answerers(new, running)
    for target in new.fallback:
        if answering == {target}:
            raise InvalidInput(
                f"{name}@{target} answers all calls, so that it would fall back to itself.",
                hint=f"Name another, or try a release: citybrain canary {name}@7 --fallback",
            )
    # It may wait so long in the gateway, and once more in the replica. A pipeline has no such end.
    if new.fallback_ms >= 2e3 * patience and not any(running[t].composed for t in answering):
        raise InvalidInput(
            f"No call lasts {new.fallback_ms} ms: it is given up after {patience:g} s.",
            hint="Say a shorter fallback_ms, or 0 for failures only.",
        )
    if new.shadow:
        _check_shadow(name, new.shadow, running, answering)


def answerers(new: NewTraffic, running: dict[str, Running]) -> set[str]:
    """The deployments that a plan sends callers to."""
    if new.split:
        return {share.target for share in new.split if share.percent}
    return {"champion"} if "champion" in running else set(list(running)[:1])


def _check_shadow(name: str, shadow: str, running: dict[str, Running], answering: set[str]) -> None:
    if shadow in answering:
        raise InvalidInput(f"{name}@{shadow} answers callers already; it is no shadow.")
    if {running[target].version for target in answering} == {running[shadow].version}:
        raise InvalidInput(
            f"{name}@{shadow} is the version that answers: its own shadow would say nothing."
        )
    if running[shadow].composed:
        raise InvalidInput(
            f"{name}@{shadow} is a pipeline, and its steps would be real calls.",
            hint="Give its algorithms shadows, or try it with a canary.",
        )
    if (level := max(running[target].level for target in (shadow, *answering))) > Level.INTERNAL:
        raise InvalidInput(
            f"{name} works on {level.value} data, and a shadow's report keeps inputs.",
            hint="Use a canary, which keeps figures only.",
        )


def check_canary(name: str, new: NewCanary, running: dict[str, Running]) -> None:
    """An error for a canary that could not be tried, or not be taken back."""
    base, release = running.get(new.base), running.get(new.target)
    if base is None:
        raise NotReady(
            f"{name}@{new.base} does not run: there is nothing to compare with.",
            hint=f"First: citybrain promote {name}, citybrain deploy {name}",
        )
    if release is None:
        raise NotReady(
            f"{name}@{new.target} does not run yet.",
            hint=f"First: citybrain deploy {name}@{new.target}",
        )
    if release.version == base.version:
        raise InvalidInput(f"{name}@{new.target} and {name}@{new.base} are the same version.")
    if lower_bound(new.calls, new.calls) <= new.error_margin:
        raise InvalidInput(
            f"A release that fails all of {new.calls} calls would pass an error_margin of "
            f"{new.error_margin:g}.",
            hint="Say a smaller margin, or more calls.",
        )
