"""What was, where versions come from and go to, cards, and how versions end."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from citybrain.core.dates import read_moment
from citybrain.core.errors import InvalidInput, NotAllowed
from citybrain.core.schemas import (
    Actor,
    AsOf,
    Caller,
    Card,
    LineageGraph,
    NewRetirement,
    Retirement,
    VersionEnd,
    Withdrawal,
)
from citybrain.platform.api.access import AnyRole, Developer, Plane, check_owner
from citybrain.platform.wiring import ControlPlane
from citybrain.storage.moments import now

router = APIRouter(tags=["lifecycle"])
OneVersion = Annotated[int | None, Query(ge=1, description="Nothing: the whole algorithm.")]


@router.get("/as-of")
def as_of(
    plane: Plane, actor: AnyRole, at: Annotated[str, Query(max_length=40)], algorithm: str = ""
) -> AsOf:
    """What was true at a moment; grants of other departments for admins and auditors only."""
    moment = read_moment(at, plane.truths.settings.zone)
    if moment > now():
        raise InvalidInput(f"{at} has not come yet.", hint="Give a moment in the past.")
    if algorithm:
        plane.catalogue.algorithm(algorithm)
    found = plane.truths.past.as_of(moment, algorithm)
    if actor.role in ("admin", "auditor"):
        return found
    own = [grant for grant in found.grants if grant.department == actor.department]
    return found.model_copy(update={"grants": own})


@router.get("/lineage")
def lineage_of_data(
    plane: Plane, actor: AnyRole, data_digest: Annotated[str, Query(max_length=64)]
) -> LineageGraph:
    """From a data set down to the departments that use a model trained on it."""
    seen_by = "" if actor.role in ("admin", "auditor") else actor.department
    return plane.lineage.of_data(data_digest, seen_by=seen_by)


@router.get("/algorithms/{name}/lineage")
def lineage(name: str, plane: Plane, actor: AnyRole, version: OneVersion = None) -> LineageGraph:
    """Upward to data and recipe, downward to deployments and departments."""
    seen_by = "" if _sees_callers(plane, name, actor) else actor.department
    return plane.lineage.around(name, [version] if version else [], seen_by=seen_by)


@router.get("/algorithms/{name}/card")
def card(
    name: str, plane: Plane, actor: AnyRole, target: Annotated[str, Query(max_length=63)] = ""
) -> Card:
    """What one should know before using a version."""
    return plane.cards.card(name, target)


@router.get("/algorithms/{name}/callers")
def callers(name: str, plane: Plane, actor: AnyRole, version: OneVersion = None) -> list[Caller]:
    """Departments and keys that called in the last 30 days; for the owner, admins, auditors."""
    if not _sees_callers(plane, name, actor):
        raise NotAllowed(f"Only its owner and admins see who calls {name}.")
    return plane.undertaker.callers(name, version)


@router.post("/algorithms/{name}/retirement", status_code=201)
def retire(name: str, new: NewRetirement, plane: Plane, actor: Developer) -> Retirement:
    """Give notice: answers carry Deprecation and Sunset, and end with 410 after the sunset."""
    check_owner(plane, name, actor)
    return plane.undertaker.retire(name, new, actor)


@router.delete("/algorithms/{name}/retirement")
def undo_retirement(
    name: str, plane: Plane, actor: Developer, version: OneVersion = None
) -> dict[str, str]:
    """Take the notice back."""
    check_owner(plane, name, actor)
    plane.undertaker.undo(name, version, actor)
    return {"state": "undone"}


@router.post("/algorithms/{name}/versions/{version}/withdraw")
def withdraw_version(
    name: str, version: int, why: Withdrawal, plane: Plane, actor: Developer
) -> VersionEnd:
    """Close a mistaken version; refused while it is champion or deployed."""
    check_owner(plane, name, actor)
    return plane.undertaker.withdraw(name, version, why.reason, actor)


@router.delete("/algorithms/{name}/versions/{version}")
def delete_version(name: str, version: int, plane: Plane, actor: Developer) -> VersionEnd:
    """Remove a withdrawn version and its files; its history stays."""
    check_owner(plane, name, actor)
    return plane.undertaker.delete(name, version, actor)


def _sees_callers(plane: ControlPlane, name: str, actor: Actor) -> bool:
    if actor.role in ("admin", "auditor"):
        return True
    return actor.role == "developer" and actor.department == plane.catalogue.algorithm(name).owner
