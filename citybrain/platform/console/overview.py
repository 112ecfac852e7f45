"""The first page: what runs, how much it is used, how good it is, what waits for somebody."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import Request, Response

from citybrain.core.schemas import Key, UsageLine
from citybrain.platform.api.access import Plane, may_key, seen_evaluations
from citybrain.platform.console.door import pages, show
from citybrain.platform.console.figures import by_day, by_minute, heat_table
from citybrain.platform.console.notices import affected, champion_changes, releases, unvouched
from citybrain.platform.policy import reaches, reaches_all, whose
from citybrain.platform.state import platform_status
from citybrain.platform.wiring import ControlPlane

router = pages()
Visitor = Annotated[Key, may_key("platform.read")]
SPAN = 30


@router.get("/")
def overview(
    request: Request, plane: Plane, key: Visitor, algorithm: str = "", span: str = "today"
) -> Response:
    """The whole page; its two parts renew themselves."""
    facts = _now(plane, key, algorithm) | _lately(plane, key, span)
    return show(request, "overview.html", key=key, **facts)


@router.get("/overview/now")
def part_now(request: Request, plane: Plane, key: Visitor, algorithm: str = "") -> Response:
    """What changes from second to second."""
    facts = _now(plane, key, algorithm)
    return show(request, "overview_now.html", key=key, **facts)


@router.get("/overview/lately")
def part_lately(request: Request, plane: Plane, key: Visitor, span: str = "today") -> Response:
    """What changes from minute to minute."""
    facts = _lately(plane, key, span)
    return show(request, "overview_lately.html", key=key, **facts)


def _now(plane: ControlPlane, key: Key, algorithm: str) -> dict[str, Any]:
    days = _days(plane, SPAN)
    lines = _usage(plane, key, days[0])
    today = [line for line in lines if line.day == days[-1]]
    if reaches_all(key, "usage.minutes"):
        minutes = plane.truths.usage.minutes(algorithm=algorithm)
        series = by_minute(minutes, int(time.time() // 60))
    else:  # minutes are not kept by department, and others' traffic is not theirs to see
        series = by_day([s for s in lines if algorithm in ("", s.algorithm)], days)
    return {
        "status": platform_status(plane),
        "unvouched": unvouched(plane, key),
        "titles": {found.name: found for found in plane.catalogue.algorithms()},
        "totals": _totals(today),
        "series": series,
        "by_minute": reaches_all(key, "usage.minutes"),
        "algorithm": algorithm,
        "used": sorted({line.algorithm for line in lines}),
    }


def _totals(lines: Iterable[UsageLine]) -> dict[str, float | None]:
    kept = list(lines)
    requests = sum(line.requests for line in kept)
    spent = sum(line.requests * line.mean_ms for line in kept)
    return {
        "requests": requests,
        "failed": sum(line.failed for line in kept),
        "rows": sum(line.rows for line in kept),
        "departments": len({line.department for line in kept}),
        "algorithms": len({line.algorithm for line in kept}),
        "mean_ms": spent / requests if requests else None,
    }


def _lately(plane: ControlPlane, key: Key, span: str) -> dict[str, Any]:
    days = _days(plane, SPAN if span == "month" else 1)
    return {
        "titles": {found.name: found for found in plane.catalogue.algorithms()},
        "span": "month" if span == "month" else "today",
        "heat": heat_table(_usage(plane, key, days[0])),
        "department_titles": {found.name: found for found in plane.truths.people.departments()},
        "evaluations": seen_evaluations(plane, key, plane.truths.evaluations.find(limit=40))[:8],
        "promotions": plane.truths.history.promotions(state="waiting"),
        "changes": [p for p in champion_changes(plane) if p.state == "done"][:5],
        "affected": affected(plane, key),
        "releases": releases(plane)[:8],
        "may_decide": _decidable(plane, key),
    }


def _decidable(plane: ControlPlane, key: Key) -> set[str]:
    """The algorithms whose promotions this visitor may decide on."""
    owners = plane.truths.history.algorithms()
    return {name for name, (owner, _) in owners.items() if reaches(key, "promotion.decide", owner)}


def _usage(plane: ControlPlane, key: Key, since: str) -> list[UsageLine]:
    department = whose(key, "usage.read")
    return plane.truths.usage.days(department=department, since=since, limit=20_000)


def _days(plane: ControlPlane, count: int) -> list[str]:
    today = datetime.now(plane.truths.settings.zone).date()
    return [(today - timedelta(days=back)).isoformat() for back in reversed(range(count))]
