"""Prices, statements, income, own calls, ratings, and how scenarios are used."""

from __future__ import annotations

import csv
import io
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from citybrain.core.dates import read_moment
from citybrain.core.schemas import Actor
from citybrain.core.schemas.bills import (
    YUAN,
    Income,
    LowUse,
    NewPrice,
    NewRating,
    OneCall,
    Operation,
    Price,
    PurposeUse,
    Rating,
    Statement,
)
from citybrain.evaluation.scenario import find_scenario
from citybrain.platform.api.access import Plane, may
from citybrain.platform.policy import reaches, reaches_all, whose

router = APIRouter(tags=["bills"])
rating_router = APIRouter(tags=["bills"])
Month = Annotated[str, Query(max_length=7, description="2026-11")]


@router.get("/prices")
def list_prices(plane: Plane, actor: Annotated[Actor, may("price.read")]) -> list[Price]:
    """The price book with all its versions, newest first; everybody may read it."""
    return plane.bills.prices()


@router.post("/prices", status_code=201)
def set_price(new: NewPrice, plane: Plane, actor: Annotated[Actor, may("price.set")]) -> Price:
    """Add a version of a line; it holds from when it begins, and never before."""
    if new.algorithm:
        plane.catalogue.algorithm(new.algorithm)
    return plane.bills.set_price(new, actor)


@router.get("/statements/{department}/{month}", response_model=Statement)
def statement(
    department: str, month: str, plane: Plane, actor: Annotated[Actor, may("statement.read", "department")],
    form: Annotated[Literal["json", "csv"], Query(alias="format")] = "json",
) -> Statement | Response:  # fmt: skip
    """A department's month: as it was issued, or as it is now; JSON or CSV."""
    found = plane.bills.statement(department, month)
    if form == "json":
        return found
    name = f"{department}-{month}.csv"
    return Response(
        as_csv(found), media_type="text/csv; charset=utf-8",
        headers={"content-disposition": f'attachment; filename="{name}"'},
    )  # fmt: skip


@router.post("/statements/{department}/{month}", status_code=201)
def issue_statement(
    department: str, month: str, plane: Plane, actor: Annotated[Actor, may("statement.issue")]
) -> Statement:
    """Fix a month that is over: from now on it is shown as it is today."""
    return plane.bills.issue(department, month, actor)


@router.get("/statements/{department}/{month}/lines/{number}")
def calls_of_line(
    department: str, month: str, number: int, plane: Plane, actor: Annotated[Actor, may("statement.read", "department")], after: str = "",
    limit: int = 200,
) -> list[OneCall]:  # fmt: skip
    """The answered calls behind one line, page by page: `after` is the last request id seen."""
    return plane.bills.calls_of(department, month, number, after, max(1, min(limit, 5000)))


@router.get("/income")
def income(
    plane: Plane, actor: Annotated[Actor, may("income.read")], month: Month, owner: str = ""
) -> list[Income]:
    """What departments used and owe of this department's algorithms."""
    asked = owner if owner and reaches_all(actor, "income.read") else actor.department
    return plane.bills.income(asked, month)


@router.get("/calls")
def own_calls(
    plane: Plane, actor: Annotated[Actor, may("request.read")], algorithm: str = "", since: str = "", limit: int = 100, *,
    failed: bool = False,
) -> list[OneCall]:  # fmt: skip
    """This department's own calls, newest first; with `failed`, those that were not answered."""
    moment = read_moment(since, plane.truths.settings.zone) if since else None
    return plane.bills.calls(
        actor.department, algorithm=algorithm, failed=failed, since=moment,
        limit=max(1, min(limit, 1000)),
    )  # fmt: skip


@router.get("/purposes")
def purposes(
    plane: Plane, actor: Annotated[Actor, may("usage.read")], month: Month
) -> list[PurposeUse]:
    """What was called for which purpose: auditors and admins see all departments, others their own."""
    return plane.operations.purposes(month, whose(actor, "usage.read"))


@router.get("/scenarios/{name}/operation")
def operation(name: str, plane: Plane, actor: Annotated[Actor, may("operation.read")]) -> Operation:
    """How a scenario is used: departments, callers, errors, satisfaction, and the weeks before."""
    find_scenario(name, plane.truths.home.scenarios)
    return plane.operations.scenario(name)


@router.get("/low-use")
def low_use(
    plane: Plane, actor: Annotated[Actor, may("disuse.read")], days: int = 30, fewer: int = 100
) -> list[LowUse]:
    """Algorithms that hardly anybody calls: candidates for retirement."""
    return plane.operations.low_use(days=max(1, min(days, 366)), fewer=max(1, fewer))


@router.get("/algorithms/{name}/ratings")
def ratings(name: str, plane: Plane, actor: Annotated[Actor, may("rating.read")]) -> list[Rating]:
    """What callers said: its owner, admins and auditors see all, a department its own."""
    owner = plane.catalogue.algorithm(name).owner
    found = plane.operations.ratings(name)
    if reaches(actor, "rating.read", owner):
        return found
    return [one for one in found if one.department == actor.department]


@rating_router.post("/v1/requests/{request_id}/rating", status_code=201)
def rate(
    request_id: str,
    new: NewRating,
    plane: Plane,
    actor: Annotated[Actor, may("rating.give", "call")],
) -> Rating:
    """Say what an answer was worth, 1 to 5, and why."""
    return plane.operations.rate(request_id, whose(actor, "rating.give"), new, actor)


COLUMNS = (
    "number", "algorithm", "owner", "purpose", "scenario", "unit", "quantity", "requests",
    "price_version",
)  # fmt: skip


def as_csv(found: Statement) -> str:
    """The lines for a spreadsheet; no cell of it is a formula."""
    out = io.StringIO()
    out.write("\ufeff")  # spreadsheets know it as UTF-8 then
    table = csv.writer(out)
    table.writerow(("department", "month", *COLUMNS, "price_yuan", "yuan", "begins", "ends"))
    for line in found.lines:
        cells = [getattr(line, name) for name in COLUMNS]
        table.writerow(
            [
                found.department, found.month, *map(_cell, cells), line.price_micros / YUAN,
                f"{line.micros / YUAN:.6f}", line.begins.isoformat(), line.ends.isoformat(),
            ]
        )  # fmt: skip
    return out.getvalue()


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value
