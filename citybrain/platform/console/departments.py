"""Departments with their keys, grants and usage."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta

from fastapi import Request, Response

from citybrain.platform.api.access import Plane
from citybrain.platform.console.door import Visitor, pages, sees_all, show
from citybrain.storage.moments import now

router = pages()


@router.get("/departments")
def departments(request: Request, plane: Plane, key: Visitor, span: int = 7) -> Response:
    """Who is there, with which keys and grants; what each used by day."""
    people = plane.truths.people
    own = "" if key.role == "admin" else key.department
    keys, grants = defaultdict(list), defaultdict(list)
    for one in people.keys(own):
        keys[one.department].append(one)
    for grant in people.grants(own):
        grants[grant.department].append(grant)
    span = span if span in (1, 7, 30) else 7
    since = datetime.now(plane.truths.settings.zone).date() - timedelta(days=span - 1)
    usage = plane.truths.usage.days(
        department="" if sees_all(key) else key.department, since=since.isoformat(), limit=500
    )
    return show(
        request, "departments.html", key=key, departments=people.departments(), keys=keys,
        grants=grants, usage=usage, span=span, now=now(), algorithms=plane.catalogue.algorithms(),
    )  # fmt: skip
