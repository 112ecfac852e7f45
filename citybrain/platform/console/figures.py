"""Numbers as people read them, and the geometry of the small drawings inside pages."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from citybrain.core.schemas import UsageLine, UsageMinute

HEAT_LEVELS = 6


def number(value: float | None, digits: int = 4) -> str:
    """At most so many significant digits, thousands apart; a dash for what was not measured."""
    if value is None or not math.isfinite(value):
        return "–"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def yuan(micros: int) -> str:
    """Millionths of a yuan as money: two decimals, and more only where there are some."""
    whole, rest = divmod(abs(micros), 1_000_000)
    decimals = f"{rest:06d}".rstrip("0").ljust(2, "0")
    return f"{'-' if micros < 0 else ''}¥{whole:,}.{decimals}"


@dataclass(frozen=True)
class Interval:
    """A metric as a bar of 0 to 100: its interval, its value, and what it is compared with."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    greater_is_better: bool
    baseline: float | None
    champion: float | None
    at: Mapping[str, float]


def intervals(report: Mapping[str, Any]) -> list[Interval]:
    """Each metric of an evaluation's report, drawn on a scale that holds all its numbers."""
    baseline = report.get("baseline", {}).get("metrics", {})
    champion = report.get("champion", {})
    found = []
    for name, metric in report.get("metrics", {}).items():
        figures = {
            "value": metric.get("value"), "low": metric.get("low"), "high": metric.get("high"),
            "baseline": baseline.get(name), "champion": champion.get(name),
        }  # fmt: skip
        found.append(
            Interval(
                name=name,
                greater_is_better=bool(metric.get("greater_is_better")),
                at=_places(figures),
                **figures,
            )
        )
    return found


def _places(figures: Mapping[str, float | None]) -> dict[str, float]:
    known = {k: v for k, v in figures.items() if v is not None and math.isfinite(v)}
    if not known:
        return {}
    low, high = min(0.0, *known.values()), max(0.0, *known.values())
    high = 1.0 if 0.3 < high <= 1.0 and low == 0 else high * 1.08
    span = (high - low) or 1.0
    return {k: round(100 * (v - low) / span, 2) for k, v in known.items()}


@dataclass(frozen=True)
class HeatTable:
    """Calls of departments (rows) to algorithms (columns), each with a level of colour."""

    algorithms: list[str]
    departments: list[str]
    calls: Mapping[tuple[str, str], int]

    def level(self, department: str, algorithm: str) -> int:
        """0 for no call, else 1 to HEAT_LEVELS on a logarithmic scale: usage spans decades."""
        calls = self.calls.get((department, algorithm), 0)
        most = max(self.calls.values(), default=0)
        if not calls:
            return 0
        return max(1, math.ceil(HEAT_LEVELS * math.log1p(calls) / math.log1p(most)))


def heat_table(lines: Iterable[UsageLine]) -> HeatTable:
    """Usage as departments by algorithms, the busiest first."""
    calls: dict[tuple[str, str], int] = defaultdict(int)
    rows: dict[str, int] = defaultdict(int)
    columns: dict[str, int] = defaultdict(int)
    for line in lines:
        calls[line.department, line.algorithm] += line.requests
        rows[line.department] += line.requests
        columns[line.algorithm] += line.requests
    return HeatTable(
        sorted(columns, key=lambda name: (-columns[name], name)),
        sorted(rows, key=lambda name: (-rows[name], name)),
        dict(calls),
    )


def by_minute(lines: Iterable[UsageMinute], until: int, last: int = 60) -> dict[str, list[Any]]:
    """Requests, failures and the slowest algorithm's p95 for each minute, gaps included."""
    minutes = list(range(until - last + 1, until + 1))
    sums = {minute: [0, 0, None] for minute in minutes}
    for line in lines:
        if line.minute not in sums:
            continue
        spot = sums[line.minute]
        spot[0] = (spot[0] or 0) + line.requests
        spot[1] = (spot[1] or 0) + line.failed
        spot[2] = max(spot[2] or 0, line.p95_ms)  # type: ignore[call-overload]
    return {
        "x": [minute * 60 for minute in minutes],
        "requests": [sums[m][0] for m in minutes],
        "failed": [sums[m][1] for m in minutes],
        "ms": [sums[m][2] for m in minutes],
    }


def by_day(lines: Iterable[UsageLine], days: list[str]) -> dict[str, list[Any]]:
    """Requests, failures and mean latency for each day, gaps included."""
    requests = dict.fromkeys(days, 0)
    failed = dict.fromkeys(days, 0)
    time = dict.fromkeys(days, 0.0)
    for line in lines:
        if line.day in requests:
            requests[line.day] += line.requests
            failed[line.day] += line.failed
            time[line.day] += line.requests * line.mean_ms
    return {
        "x": days,
        "requests": [requests[d] for d in days],
        "failed": [failed[d] for d in days],
        "ms": [round(time[d] / requests[d], 3) if requests[d] else None for d in days],
    }
