"""Is a release as good as what it would replace? By errors and by latency, from the ledger.

A judge is any callable from a window to a verdict; scenarios add quality by wrapping this one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from citybrain.core.schemas.traffic import FEW, NewCanary
from citybrain.storage.records.draws import Arm

CONFIDENCE = 1.96
P95 = 0.95
LEAST_MS = 2.0
"""Slower by less than this is not slower: a timer's and a neighbour's noise."""


@dataclass(frozen=True)
class Window:
    """Both sides of a step since it began."""

    base: Arm
    canary: Arm
    seconds: float
    alone: bool = False
    """Whether all calls go to the release, so that the other side gets no more."""


@dataclass(frozen=True)
class Verdict:
    """What to do with a release, and why."""

    act: Literal["wait", "forward", "back"]
    says: str


Judge = Callable[[NewCanary, Window], Verdict]


def judge(plan: NewCanary, window: Window) -> Verdict:
    """Back as soon as it is surely worse, forward when the step had its time and its calls.

    Errors: back when even the lower end of the release's 95 % interval (Wilson 1927) is above the
    share of errors before it plus `error_margin`. Latency: back when p95 is surely above `latency_ratio`
    times what it was, once the step has its calls, or the median is, after a few. Surely: so many calls took
    longer that the lower end of the interval of their share is above 5 %. One slow call of twenty is p95, and chance.
    """
    base, canary = window.base, window.canary
    before = base.failed / base.calls if base.calls else 0.0
    if canary.calls and lower_bound(canary.failed, canary.calls) > before + plan.error_margin:
        return Verdict(
            "back", f"{canary.failed} of {canary.calls} calls failed, {before:.1%} before it"
        )
    enough = canary.calls >= plan.calls
    for name, slow, fast, ready in (
        ("median", canary.p50_ms, base.p50_ms, min(canary.calls, base.calls) >= FEW),
        ("p95", canary.p95_ms, base.p95_ms, enough and base.calls >= FEW),
    ):
        limit = max(plan.latency_ratio * fast, fast + LEAST_MS)
        if ready and slow > limit and (name == "median" or _surely(canary.took_ms, limit)):
            return Verdict("back", f"{name} {slow:.1f} ms, {fast:.1f} ms before it")
    if window.seconds < plan.seconds:
        return Verdict("wait", f"{window.seconds:.0f} of {plan.seconds:g} s")
    if not enough:
        return Verdict("wait", f"{canary.calls} of {plan.calls} calls")
    if base.calls < FEW and not window.alone:
        return Verdict("wait", f"{base.calls} of {FEW} calls of the other side")
    return Verdict(
        "forward",
        f"{canary.calls} calls, {canary.failed} failed, median {canary.p50_ms:.1f} ms "
        f"({base.p50_ms:.1f} before it)",
    )


def _surely(took_ms: tuple[float, ...], limit: float) -> bool:
    """Whether more than one call in twenty takes longer than this, beyond chance."""
    slower = sum(took > limit for took in took_ms)
    return slower > 0 and lower_bound(slower, len(took_ms)) > 1 - P95


def lower_bound(failed: int, calls: int) -> float:
    """The lower end of the 95 % Wilson interval of a share."""
    return wilson(failed, calls)[0]


def wilson(failed: int, calls: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    share, z2 = failed / calls, CONFIDENCE**2
    centre = share + z2 / (2 * calls)
    spread = CONFIDENCE * math.sqrt(share * (1 - share) / calls + z2 / (4 * calls**2))
    return (centre - spread) / (1 + z2 / calls), (centre + spread) / (1 + z2 / calls)
