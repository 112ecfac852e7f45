"""Gates: the rules of a scenario as pure functions of measured numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from citybrain.evaluation.metric import METRICS
from citybrain.evaluation.scenario import GateRule

Figures = Mapping[str, Mapping[str, float]]
"""Metric values by slice (`tag=value`); the slice "" is the whole."""


def decide(
    rules: Iterable[GateRule], figures: Figures, others: Mapping[str, Figures]
) -> list[dict[str, Any]]:
    """Each rule with what was found, whether it passed, and a sentence that says so.

    `others` holds the figures of `baseline` and, where there is one, of `champion`.
    """
    verdicts = []
    for rule in rules:
        value = figures.get(rule.slice, {}).get(rule.metric, math.nan)
        other = others.get(rule.better_than or "", {}).get(rule.slice, {}).get(rule.metric)
        passed, says = _judge(rule, value, other)
        verdicts.append(
            {"metric": rule.metric, "slice": rule.slice, "value": value, "passed": passed,
             "says": says}
        )  # fmt: skip
    return verdicts


def _judge(rule: GateRule, value: float, other: float | None) -> tuple[bool, str]:
    where = f"{rule.metric}{f' on {rule.slice}' if rule.slice else ''}"
    if math.isnan(value):
        return False, f"{where} could not be measured"
    wants: list[tuple[bool, str]] = []
    if rule.at_least is not None:
        wants.append((value >= rule.at_least, f"at least {rule.at_least:g}"))
    if rule.at_most is not None:
        wants.append((value <= rule.at_most, f"at most {rule.at_most:g}"))
    if rule.better_than is not None and other is not None:  # the first version has no champion
        sign = 1 if METRICS.get(rule.metric).greater_is_better else -1
        better = sign * (value - other)
        margin = f" by {rule.by:g}" if rule.by else ""
        says = f"better than the {rule.better_than}'s {other:.4g}{margin}"
        wants.append((better > 0 and better >= rule.by, says))
    if not wants:
        return True, f"{where} is {value:.4g}, and there is no {rule.better_than} to beat"
    says = " and ".join(text for _, text in wants)
    return all(ok for ok, _ in wants), f"{where} is {value:.4g}, wanted {says}"


def rule_text(rule: GateRule) -> str:
    """A rule as a person reads it in the catalogue."""
    where = f"{rule.metric}{f' on {rule.slice}' if rule.slice else ''}"
    wants = []
    if rule.at_least is not None:
        wants.append(f"≥ {rule.at_least:g}")
    if rule.at_most is not None:
        wants.append(f"≤ {rule.at_most:g}")
    if rule.better_than is not None:
        wants.append(f"better than {rule.better_than}" + (f" by {rule.by:g}" if rule.by else ""))
    return f"{where} {' and '.join(wants)}".strip()
