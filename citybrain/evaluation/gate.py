"""Gates: the rules of a scenario as pure functions of measured numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from citybrain.evaluation.metric import METRICS
from citybrain.evaluation.scenario import GateRule


def decide(
    rules: Iterable[GateRule], whole: Mapping[str, Mapping[str, float]],
    slices: Mapping[str, Mapping[str, float]], baseline: Mapping[str, float],
    champion: Mapping[str, float],
) -> list[dict[str, Any]]:  # fmt: skip
    """Each rule with what was found, whether it passed, and a sentence that says so."""
    verdicts = []
    for rule in rules:
        if rule.slice:
            value = slices.get(rule.slice, {}).get(rule.metric, math.nan)
        else:
            value = whole[rule.metric]["value"]
        passed, says = _judge(rule, value, baseline, champion)
        verdicts.append(
            {"metric": rule.metric, "slice": rule.slice, "value": value, "passed": passed,
             "says": says}
        )  # fmt: skip
    return verdicts


def _judge(
    rule: GateRule,
    value: float,
    baseline: Mapping[str, float],
    champion: Mapping[str, float],
) -> tuple[bool, str]:
    where = f"{rule.metric}{f' on {rule.slice}' if rule.slice else ''}"
    if math.isnan(value):
        return False, f"{where} could not be measured"
    wants: list[tuple[bool, str]] = []
    if rule.at_least is not None:
        wants.append((value >= rule.at_least, f"at least {rule.at_least:g}"))
    if rule.at_most is not None:
        wants.append((value <= rule.at_most, f"at most {rule.at_most:g}"))
    if rule.better_than is not None:
        other = (baseline if rule.better_than == "baseline" else champion).get(rule.metric)
        if other is not None:  # the first version has no champion to beat
            sign = 1 if METRICS.get(rule.metric).greater_is_better else -1
            margin = f" by {rule.by:g}" if rule.by else ""
            wants.append(
                (
                    sign * (value - other) >= rule.by and sign * (value - other) > 0,
                    f"better than the {rule.better_than}'s {other:.4g}{margin}",
                )
            )
    passed = all(ok for ok, _ in wants)
    return (
        passed,
        f"{where} is {value:.4g}, wanted {' and '.join(text for _, text in wants)}",
    )


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
