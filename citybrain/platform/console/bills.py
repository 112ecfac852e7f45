"""A department's month, the calls behind each line, the price book, and what others owe."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, get_args
from urllib.parse import quote

from fastapi import Request, Response

from citybrain.core.dates import month_of
from citybrain.core.errors import RowNotFound
from citybrain.core.schemas import Department, Key
from citybrain.core.schemas.quotas import Unit
from citybrain.platform.api.access import Plane, may_key
from citybrain.platform.console.door import pages, show, to_page
from citybrain.platform.policy import allows, reaches, reaches_all
from citybrain.storage.moments import now
from citybrain.storage.records.bills import price_at

router = pages()
Visitor = Annotated[Key, may_key("statement.read", "department")]
PAGE = 200


@router.get("/bills")
def bills(
    request: Request, plane: Plane, key: Annotated[Key, may_key("statement.read")],
    department: str = "", month: str = "",
) -> Response:  # fmt: skip
    """Go to the month that was chosen; else to the department's own, this month."""
    this = f"{datetime.now(plane.truths.settings.zone):%Y-%m}"
    return to_page(
        request,
        f"/bills/{quote(department or key.department, safe='')}/{quote(month or this, safe='')}",
    )


@router.get("/bills/prices")
def prices(request: Request, plane: Plane, key: Annotated[Key, may_key("price.read")]) -> Response:
    """The price book with all its versions."""
    return show(
        request, "prices.html", key=key, prices=plane.bills.prices(), now=now(),
        tomorrow=now() + timedelta(days=1),
        algorithms={one.name: one for one in plane.catalogue.algorithms()}, units=get_args(Unit),
    )  # fmt: skip


@router.get("/bills/{department}/{month}")
def bill(request: Request, department: str, month: str, plane: Plane, key: Visitor) -> Response:
    """The lines of a month, as they were issued or as they are now; fit for printing."""
    departments = {one.name: one for one in plane.truths.people.departments()}
    whose = _known(departments, department)
    _, ends = month_of(month, plane.truths.settings.zone)
    sees_income = allows(key, "income.read") and reaches(key, "income.read", department)
    found, book = plane.bills.statement(department, month), plane.bills.prices()
    return show(
        request, "bill.html", key=key, bill=found, month=month, over=ends <= now(), whose=whose,
        departments=departments, now=now(), sees_all=reaches_all(key, "statement.read"),
        algorithms={one.name: one for one in plane.catalogue.algorithms()},
        prices={
            one.number: price_at(book, one.algorithm, one.unit, one.begins) for one in found.lines
        },
        income=plane.bills.income(department, month) if sees_income else None,
    )  # fmt: skip


@router.get("/bills/{department}/{month}/{number}")
def line(
    request: Request, department: str, month: str, number: int, plane: Plane, key: Visitor,
    after: str = "",
) -> Response:  # fmt: skip
    """The answered calls behind a line, page by page."""
    departments = {one.name: one for one in plane.truths.people.departments()}
    whose = _known(departments, department)
    calls = plane.bills.calls_of(department, month, number, after[:32], PAGE)
    found = plane.bills.statement(department, month)
    return show(
        request, "bill_line.html", key=key, month=month, calls=calls, whose=whose,
        line=next(one for one in found.lines if one.number == number),
        after=calls[-1].request_id if len(calls) == PAGE else "",
        algorithms={one.name: one for one in plane.catalogue.algorithms()},
        opens=department == key.department and allows(key, "request.read"),
    )  # fmt: skip


def _known(departments: dict[str, Department], name: str) -> Department:
    if name not in departments:
        raise RowNotFound(f"There is no department {name[:63]!r}.")
    return departments[name]
