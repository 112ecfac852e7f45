"""Is one side of a split better than the other, or is it chance? For people who look at figures.

Failures: Fisher's exact test, and Newcombe's interval of the difference, made of two of Wilson's.
Latency: the Mann-Whitney test, and a bootstrap interval of the difference of the medians. Each answers
one look; who looks every hour until something shows will see differences that are none.
"""

from __future__ import annotations

import math

from citybrain.core.schemas.comparisons import Difference, Side
from citybrain.core.schemas.traffic import FEW
from citybrain.serving.rollout.judge import CONFIDENCE, wilson
from citybrain.storage.records.draws import Arm

SHOWN = 0.05
POWER = 0.84
"""With so many standard errors more, a difference shows in four of five tries."""
RESAMPLES = 999


def side(target: str, version: int, arm: Arm) -> Side:
    """A deployment and what was counted of it."""
    return Side(
        target=target, version=version, calls=arm.calls, failed=arm.failed, p50_ms=arm.p50_ms,
        p95_ms=arm.p95_ms,
    )  # fmt: skip


def failures(base: Side, other: Side, margin: float) -> Difference:
    """Which fails less; else how many more calls would show a difference of `margin`."""
    if few := _few(base.target, base.calls) or _few(other.target, other.calls):
        return Difference(of="failures", more_calls=FEW, says=few)
    from scipy.stats import fisher_exact

    table = [[one.failed, one.calls - one.failed] for one in (base, other)]
    p = float(fisher_exact(table).pvalue)
    share, before = other.failed / other.calls, base.failed / base.calls
    low, high = _newcombe(base, other)
    missing, effect = 0, max(margin, abs(share - before))
    if p < SHOWN:
        better, worse = (other, base) if share < before else (base, other)
        says = (
            f"{better.target} fails less than {worse.target}: {better.failed / better.calls:.2%} "
            f"against {worse.failed / worse.calls:.2%}, {_chance(p)}"
        )
    else:
        missing = _missing(base, other, effect)
        hope = f"about {missing:,} more calls would" if missing else "by now they most likely would"
        says = (
            f"no difference in failures shown yet: {other.target} {share:.2%}, {base.target} "
            f"{before:.2%}, the difference between {low:+.2%} and {high:+.2%}; {hope} show one "
            f"of {effect:.2%}"
        )
    return Difference(
        of="failures", p=p, value=share - before, low=low, high=high, more_calls=missing, says=says
    )


def latency(
    base: Side, other: Side, base_ms: tuple[float, ...], other_ms: tuple[float, ...]
) -> Difference:
    """Which is faster, by latencies of both from the same seconds."""
    if few := _few(base.target, len(base_ms)) or _few(other.target, len(other_ms)):
        return Difference(of="latency", more_calls=FEW, says=few)
    import numpy as np
    from scipy.stats import bootstrap, mannwhitneyu

    test = mannwhitneyu(other_ms, base_ms)
    p, faster = float(test.pvalue), test.statistic < len(base_ms) * len(other_ms) / 2
    interval = bootstrap(
        (base_ms, other_ms), lambda x, y, axis: np.median(y, axis=axis) - np.median(x, axis=axis),
        vectorized=True, method="percentile", n_resamples=RESAMPLES, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    before, after = float(np.median(base_ms)), float(np.median(other_ms))
    low, high = float(interval.low), float(interval.high)
    said = f"median {after:.2f} ms against {before:.2f}, between {low:+.2f} and {high:+.2f} ms"
    if p < SHOWN:
        word = "faster" if faster else "slower"
        says = f"{other.target} is {word} than {base.target}: {said}, {_chance(p)}"
    else:
        says = f"no difference in latency shown yet: {other.target} has {said} beside {base.target}"
    return Difference(of="latency", p=p, value=after - before, low=low, high=high, says=says)


def _few(target: str, calls: int) -> str:
    return f"too few calls: {target} answered {calls} of at least {FEW}" if calls < FEW else ""


def _chance(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _newcombe(base: Side, other: Side) -> tuple[float, float]:
    """The 95 % interval of the difference of two shares (Newcombe 1998, method 10)."""
    one, two = other.failed / other.calls, base.failed / base.calls
    (low1, high1), (low2, high2) = (wilson(s.failed, s.calls) for s in (other, base))
    below = math.hypot(one - low1, high2 - two)
    above = math.hypot(high1 - one, two - low2)
    return one - two - below, one - two + above


def _missing(base: Side, other: Side, effect: float) -> int:
    """Calls to both that are missing until a difference of this size would most likely show."""
    calls = base.calls + other.calls
    # One failure and one success more than were seen: a share of exactly nothing is not believed.
    share = (base.failed + other.failed + 1) / (calls + 2)
    worse = min(1.0, share + effect)
    spreads = [
        share * (1 - share) * calls / one.calls + worse * (1 - worse) * calls / two.calls
        for one, two in ((base, other), (other, base))
    ]  # whichever of them were the worse one
    needed = max(spreads) * ((CONFIDENCE + POWER) / effect) ** 2
    return max(0, math.ceil(needed - calls))
