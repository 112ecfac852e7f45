"""Limits of departments, and what their deployments may take."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from citybrain.core.schemas import Actor
from citybrain.core.schemas.quotas import (
    Allotment,
    AllotmentUse,
    NewAllotment,
    NewQuota,
    Quota,
    QuotaUse,
)
from citybrain.platform.api.access import Plane, may
from citybrain.platform.policy import whose

router = APIRouter(tags=["quotas"])


@router.get("/quotas")
def list_quotas(plane: Plane, actor: Annotated[Actor, may("quota.read")]) -> list[QuotaUse]:
    """Limits and what is used of them: an admin sees all, others those of their department."""
    return plane.quotas.used(whose(actor, "quota.read"))


@router.put("/quotas", status_code=201)
def set_quota(new: NewQuota, plane: Plane, actor: Annotated[Actor, may("quota.set")]) -> Quota:
    """Set a limit, in place of the one for the same algorithm, unit and period."""
    if new.algorithm:
        plane.catalogue.algorithm(new.algorithm)
    return plane.quotas.rows.put(new, actor)


@router.delete("/quotas/{quota_id}")
def end_quota(quota_id: str, plane: Plane, actor: Annotated[Actor, may("quota.set")]) -> Quota:
    """Take a limit away."""
    return plane.quotas.rows.end(quota_id, actor)


@router.get("/allotments")
def list_allotments(
    plane: Plane, actor: Annotated[Actor, may("allotment.read")]
) -> list[AllotmentUse]:
    """What each department's deployments may take together, and what they take."""
    return plane.allotments.used()


@router.put("/allotments/{department}")
def allot(
    department: str, new: NewAllotment, plane: Plane, actor: Annotated[Actor, may("allotment.set")]
) -> Allotment:
    """Say what a department's deployments may take; what runs already goes on."""
    return plane.quotas.rows.allot(department, new, actor)
