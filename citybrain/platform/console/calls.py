"""A department's own calls: how many, which failed, what each was worth, and the versions it stays with."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from typing import Annotated, Any, NamedTuple

from fastapi import Request, Response

from citybrain.core.errors import RowNotFound
from citybrain.core.schemas import Key, UsageLine
from citybrain.core.schemas.bills import OneCall
from citybrain.platform.api.access import Plane, may_key
from citybrain.platform.console.door import pages, show
from citybrain.platform.console.figures import by_day
from citybrain.platform.policy import allows, reaches
from citybrain.platform.wiring import ControlPlane

router = pages()
Visitor = Annotated[Key, may_key("request.read")]
SPAN = 30
SHOWN = 50


class Used(NamedTuple):
    """What a department called of one algorithm."""

    algorithm: str
    requests: int
    failed: int
    rows: int
    mean_ms: float


@router.get("/calls")
def calls(
    request: Request, plane: Plane, key: Visitor, algorithm: str = "", id: str = "", *,  # noqa: A002
    failed: bool = False,
) -> Response:  # fmt: skip
    """The newest calls, usage of a month by day and by algorithm, and pins."""
    lines, days = _usage(plane, key.department)
    found = plane.bills.calls(
        key.department, algorithm=algorithm[:63], failed=failed, limit=SHOWN
    )  # fmt: skip
    if wanted := id.strip()[:64]:
        found = [one for one in [_call(plane, key, wanted)] if one]
    return show(
        request, "calls.html", key=key, calls=found, algorithm=algorithm[:63], failed=failed,
        id=wanted, usage=by_day(lines, days), used=_by_algorithm(lines),
        titles={one.name: one for one in plane.catalogue.algorithms()},
        ratings=plane.operations.ratings_of([one.request_id for one in found]),
        pins=plane.controls.pins(key.department) if allows(key, "pin.read") else [],
        champions=plane.truths.history.aliases(),
    )  # fmt: skip


@router.get("/calls/{request_id}")
def call(
    request: Request, request_id: str, plane: Plane,
    key: Annotated[Key, may_key("request.read", "call")],
) -> Response:  # fmt: skip
    """One call, and what it was worth."""
    found = _call(plane, key, request_id)
    if found is None:
        raise RowNotFound(
            f"There is no call {request_id[:63]!r} in the ledger.",
            hint="A call appears within a second or two.",
        )
    return show(
        request, "call.html", key=key, call=found,
        titles={one.name: one for one in plane.catalogue.algorithms()},
        rating=plane.operations.ratings_of([request_id]).get(request_id),
    )  # fmt: skip


def _call(plane: ControlPlane, key: Key, request_id: str) -> OneCall | None:
    row = plane.truths.usage.request(request_id)
    if row is None or not reaches(key, "request.read", row["department"]):
        return None
    return OneCall.model_validate(row)


def _usage(plane: ControlPlane, department: str) -> tuple[list[UsageLine], list[str]]:
    today = datetime.now(plane.truths.settings.zone).date()
    days = [(today - timedelta(days=back)).isoformat() for back in reversed(range(SPAN))]
    return plane.truths.usage.days(department=department, since=days[0], limit=20_000), days


def _by_algorithm(lines: list[UsageLine]) -> list[Used]:
    sums: dict[str, list[Any]] = defaultdict(lambda: [0, 0, 0, 0.0])
    for line in lines:
        found = sums[line.algorithm]
        found[0] += line.requests
        found[1] += line.failed
        found[2] += line.rows
        found[3] += line.requests * line.mean_ms
    used = [
        Used(name, requests, failed, rows, spent / max(1, requests))
        for name, (requests, failed, rows, spent) in sums.items()
    ]
    return sorted(used, key=lambda one: (-one.requests, one.algorithm))
