"""Limits with what is used and left of them, and what deployments may take."""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated, Any, get_args

from fastapi import Request, Response

from citybrain.core.schemas import Key
from citybrain.core.schemas.quotas import Per, QuotaUse, Unit
from citybrain.platform.api.access import Plane, may_key
from citybrain.platform.console.door import pages, show
from citybrain.platform.policy import reaches_all, whose
from citybrain.platform.wiring import ControlPlane

router = pages()


@router.get("/limits")
def limits(request: Request, plane: Plane, key: Annotated[Key, may_key("quota.read")]) -> Response:
    """An admin sees and sets all, others see those of their department."""
    quotas: dict[str, list[QuotaUse]] = defaultdict(list)
    for one in plane.quotas.used(whose(key, "quota.read")):
        quotas[one.quota.department].append(one)
    sees_all = reaches_all(key, "quota.read")
    departments = plane.truths.people.departments()
    allotted = {one.department: one for one in plane.quotas.rows.allotments()}
    return show(
        request, "limits.html", key=key, quotas=quotas, allotted=allotted,
        taken=_taken(plane), departments=departments, sees_all=sees_all,
        shown=[
            one for one in departments
            if one.name == key.department
            or (sees_all and (one.name in quotas or one.name in allotted))
        ],
        algorithms=plane.catalogue.algorithms(), units=get_args(Unit), periods=get_args(Per),
    )  # fmt: skip


def _taken(plane: ControlPlane) -> dict[str, dict[str, Any]]:
    """What the deployments of each department's algorithms are asked to take together."""
    owners = {name: owner for name, (owner, _) in plane.truths.history.algorithms().items()}
    found: dict[str, dict[str, Any]] = defaultdict(lambda: {"replicas": 0, "cpus": 0, "gpus": 0.0})
    for one in plane.truths.deployments.all():
        sums = found[owners.get(one.algorithm, "")]
        sums["replicas"] += one.replicas
        sums["cpus"] += one.replicas * one.cpus
        sums["gpus"] += one.replicas * one.gpus
    return found
