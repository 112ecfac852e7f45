"""Moves canaries: looks at both sides of each, asks the judge, steps forward or takes it back."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Protocol

from citybrain.core.errors import CityBrainError, InvalidInput
from citybrain.core.events import tell
from citybrain.core.schemas import Actor, Comparison
from citybrain.core.schemas.traffic import FEW, Canary, NewCanary, NewTraffic, Traffic
from citybrain.registry.catalogue import Catalogue
from citybrain.serving.rollout import comparison
from citybrain.serving.rollout.checks import Running, check_canary, check_traffic
from citybrain.serving.rollout.judge import Judge, Window
from citybrain.storage.moments import now
from citybrain.storage.records.deployments import Deployments
from citybrain.storage.records.draws import Arm
from citybrain.storage.records.traffic import MACHINE, Traffics

log = logging.getLogger(__name__)
MARGIN = 0.02
"""A difference in shares of failures that matters, where no canary says another."""


class Arms(Protocol):
    """What each version of an algorithm did between two moments, with what a split drew there."""

    def __call__(
        self, algorithm: str, since: datetime, until: datetime | None = None, /
    ) -> dict[int, Arm]:
        """Nothing of versions that nothing was drawn to."""


class Rollouts:
    """What people ask of traffic, checked; and the step that the control process repeats."""

    def __init__(
        self, traffics: Traffics, deployments: Deployments, catalogue: Catalogue, arms: Arms,
        judge: Judge, *, patience: float,
    ) -> None:  # fmt: skip
        """`patience`: seconds after which a gateway gives a call up."""
        self._traffics = traffics
        self._deployments = deployments
        self._catalogue = catalogue
        self._arms = arms
        self._judge = judge
        self._patience = patience

    def put(self, name: str, new: NewTraffic, actor: Actor) -> Traffic:
        """Set how calls are shared; a plan that could not take effect is refused."""
        self._catalogue.algorithm(name)
        check_traffic(name, new, self._running(name), self._patience)
        return self._traffics.put(name, new, actor)

    def start(self, name: str, new: NewCanary, actor: Actor) -> Canary:
        """Begin to send calls to a release."""
        self._catalogue.algorithm(name)
        running = self._running(name)
        check_canary(name, new, running)
        versions = running[new.target].version, running[new.base].version
        canary = self._traffics.start(name, new, *versions, actor)
        _tell(canary, "running", canary.percent, "started")
        return canary

    def stop(self, name: str, actor: Actor) -> Canary:
        """Take a canary back by hand."""
        for canary in self._traffics.holding():
            if canary.algorithm == name:
                self._move(canary, "stopped", canary.step, "stopped by hand", actor)
                return self._traffics.canaries(name)[0]
        raise InvalidInput(f"{name} has no canary.", hint=f"Start one: citybrain canary {name}@7")

    def compare(self, name: str) -> list[Comparison]:
        """What the sides of the split in force, or else of the last canary, show of each other."""
        self._catalogue.algorithm(name)
        traffic = self._traffics.get(name)
        newest = next(iter(self._traffics.canaries(name, limit=1)), None)
        if newest is not None and (newest.id == traffic.canary or not traffic.split):
            return [self._of_canary(newest)]
        if len([share for share in traffic.split if share.percent]) < 2:
            raise InvalidInput(
                f"The calls of {name} are not split, and no canary was tried.",
                hint=f"Split them: citybrain traffic {name} --split champion=90 --split 7=10",
            )
        return self._of_split(traffic)

    def _of_canary(self, canary: Canary) -> Comparison:
        """Its newest step."""
        over = canary.state in ("rolled-back", "stopped")
        since, until = (canary.log[-2].at, canary.moved_at) if over else (canary.moved_at, None)
        base, release = self._sides(canary, since, until)
        return _compared(
            canary.algorithm, since, until,
            (canary.base, canary.base_version, base), (canary.target, canary.version, release),
            canary.plan.error_margin,
        )  # fmt: skip

    def _of_split(self, traffic: Traffic) -> list[Comparison]:
        """Each side beside the champion, or the one with most calls."""
        name, since = traffic.algorithm, traffic.since
        assert since is not None
        running, arms = self._running(name), self._arms(name, since)
        shares = {s.target: s.percent for s in traffic.split if s.percent and s.target in running}
        base = "champion" if "champion" in shares else max(shares, key=lambda t: shares[t])
        sides = {t: (t, running[t].version, arms.get(running[t].version, Arm())) for t in shares}
        return [
            _compared(name, since, None, sides[base], other, MARGIN)
            for target, other in sides.items()
            if target != base and other[1] != sides[base][1]
        ]

    def step(self) -> None:
        """Look at every canary once."""
        for canary in self._traffics.holding():
            try:
                self._look(canary)
            except CityBrainError as error:
                log.warning("canary %s: %s", canary.id, error)

    def _look(self, canary: Canary) -> None:
        running = self._running(canary.algorithm)
        base, release = running.get(canary.base), running.get(canary.target)
        if base is not None and base.version == canary.version:
            self._move(canary, "stopped", canary.step, "promoted; all calls go to it")
            return
        if canary.state == "passed" or base is None:  # nothing runs while Ray is started again
            return
        if release is None or release.version != canary.version:
            gone = f"version {canary.version} does not run any more"
            self._move(canary, "rolled-back", canary.step, gone)
            return
        verdict = self._judge(canary.plan, self._window(canary))
        if verdict.act == "back":
            self._move(canary, "rolled-back", canary.step, verdict.says)
        elif verdict.act == "forward":
            last = canary.step + 1 == len(canary.plan.steps)
            state, step = ("passed", canary.step) if last else ("running", canary.step + 1)
            self._move(canary, state, step, verdict.says)

    def _window(self, canary: Canary) -> Window:
        """Both sides since the step began."""
        seconds = (now() - canary.moved_at).total_seconds()
        return Window(*self._sides(canary, canary.moved_at), seconds, canary.percent == 100)

    def _sides(
        self, canary: Canary, since: datetime, until: datetime | None = None
    ) -> tuple[Arm, Arm]:
        """The base and the release; where a step leaves the base few calls, those before it count."""
        arms = self._arms(canary.algorithm, since, until)
        base, release = (arms.get(v, Arm()) for v in (canary.base_version, canary.version))
        if base.calls < FEW:
            earlier = self._arms(canary.algorithm, canary.created_at, until)
            base = earlier.get(canary.base_version, base)
        return base, release

    def _move(
        self, canary: Canary, state: str, step: int, says: str, actor: Actor = MACHINE
    ) -> None:
        if self._traffics.move(canary.id, state, step, says, actor):
            moved = canary.model_copy(update={"state": state, "step": step})
            _tell(canary, state, moved.percent, says)

    def _running(self, name: str) -> dict[str, Running]:
        return {
            d.target: Running.of(d) for d in self._deployments.all()
            if d.algorithm == name and d.running and d.state != "removing"
        }  # fmt: skip


_Counted = tuple[str, int, Arm]
"""A target, its version and what it did."""


def _compared(
    name: str, since: datetime, until: datetime | None, one: _Counted, two: _Counted, margin: float
) -> Comparison:
    base, other = comparison.side(*one), comparison.side(*two)
    return Comparison(
        algorithm=name, since=since, until=until, base=base, other=other,
        failures=comparison.failures(base, other, margin),
        latency=comparison.latency(base, other, one[2].took_ms, two[2].took_ms),
    )  # fmt: skip


def _tell(canary: Canary, state: str, percent: float, says: str) -> None:
    tell(
        log, f"canary.{state}", level=logging.WARNING if state == "rolled-back" else logging.INFO,
        canary=canary.id, algorithm=canary.algorithm, target=canary.target,
        version=canary.version, base_version=canary.base_version, percent=percent, says=says,
    )  # fmt: skip
