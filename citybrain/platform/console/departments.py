"""Departments with their keys, grants, jobs and usage."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from typing import Annotated, NamedTuple, get_args

from fastapi import Request, Response

from citybrain.core.levels import Level
from citybrain.core.schemas import BatchJob, Department, Key, Role
from citybrain.core.schemas.people import TIERS
from citybrain.platform.api.access import Plane, may_key
from citybrain.platform.console.door import pages, show
from citybrain.platform.policy import allows, reaches, reaches_all, whose
from citybrain.platform.wiring import ControlPlane
from citybrain.storage.moments import now

router = pages()


class Branch(NamedTuple):
    """A department and how deep in the tree it is."""

    department: Department
    depth: int


Visitor = Annotated[Key, may_key("department.read")]


@router.get("/departments")
def departments(request: Request, plane: Plane, key: Visitor, span: int = 7) -> Response:
    """Who is there, with which keys and grants; what each used by day."""
    people = plane.truths.people
    keys, grants = defaultdict(list), defaultdict(list)
    for one in people.keys(whose(key, "key.read")):
        keys[one.department].append(one)
    for grant in people.grants(whose(key, "grant.read")):
        grants[grant.department].append(grant)
    span = span if span in (1, 7, 30) else 7
    since = datetime.now(plane.truths.settings.zone).date() - timedelta(days=span - 1)
    usage = plane.truths.usage.days(
        department=whose(key, "usage.read"), since=since.isoformat(), limit=500
    )
    everybody = people.departments()
    return show(
        request, "departments.html", key=key, departments=everybody, tree=_tree(everybody), keys=keys,
        roles=get_args(Role), levels=list(Level), tiers=TIERS,
        grants=grants, usage=usage, span=span, now=now(), algorithms=plane.catalogue.algorithms(),
        jobs=_jobs(plane, key), sees_all=reaches_all(key, "key.read"),
        may_rotate={one.name for one in everybody if reaches(key, "key.rotate", one.name)},
    )  # fmt: skip


def _tree(departments: list[Department], above: str = "", depth: int = 0) -> list[Branch]:
    """Departments in the order of their tree, each with its depth."""
    names = {one.name for one in departments}
    found = []
    for one in departments:
        if one.parent == above or (not above and one.parent not in names):
            found.append(Branch(one, depth))
            found += _tree(departments, one.name, depth + 1)
    return found


@router.get("/departments/jobs")
def part_jobs(request: Request, plane: Plane, key: Visitor) -> Response:
    """The newest jobs, renewed while somebody looks."""
    return show(request, "jobs.html", key=key, jobs=_jobs(plane, key), now=now())


def _jobs(plane: ControlPlane, key: Key) -> list[BatchJob]:
    if not allows(key, "job.read"):
        return []
    return plane.truths.jobs.find(whose(key, "job.read"), limit=20)
