"""What was, where versions come from and go to, cards, and how versions end."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from citybrain.core.dates import read_moment
from citybrain.core.errors import InvalidInput
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
from citybrain.platform.api.access import Plane, may
from citybrain.platform.policy import reaches, whose
from citybrain.storage.moments import now

router = APIRouter(tags=["lifecycle"])
OneVersion = Annotated[int | None, Query(ge=1, description="Nothing: the whole algorithm.")]


@router.get("/as-of")
def as_of(
    plane: Plane,
    actor: Annotated[Actor, may("past.read")],
    at: Annotated[str, Query(max_length=40)],
    algorithm: str = "",
) -> AsOf:
    """What was true at a moment; grants of other departments for admins and auditors only."""
    moment = read_moment(at, plane.truths.settings.zone)
    if moment > now():
        raise InvalidInput(f"{at} has not come yet.", hint="Give a moment in the past.")
    if algorithm:
        plane.catalogue.algorithm(algorithm)
    found = plane.truths.past.as_of(moment, algorithm)
    seen = whose(actor, "grant.read")
    own = [grant for grant in found.grants if seen in ("", grant.department)]
    return found.model_copy(update={"grants": own})


@router.get("/lineage")
def lineage_of_data(
    plane: Plane,
    actor: Annotated[Actor, may("lineage.read")],
    data_digest: Annotated[str, Query(max_length=64)],
) -> LineageGraph:
    """From a data set down to the departments that use a model trained on it."""
    return plane.lineage.of_data(data_digest, seen_by=whose(actor, "caller.read"))


@router.get("/algorithms/{name}/lineage")
def lineage(
    name: str,
    plane: Plane,
    actor: Annotated[Actor, may("lineage.read")],
    version: OneVersion = None,
) -> LineageGraph:
    """Upward to data and recipe, downward to deployments and departments."""
    owner = plane.catalogue.algorithm(name).owner
    seen_by = "" if reaches(actor, "caller.read", owner) else actor.department
    return plane.lineage.around(name, [version] if version else [], seen_by=seen_by)


@router.get("/algorithms/{name}/card")
def card(
    name: str,
    plane: Plane,
    actor: Annotated[Actor, may("algorithm.read")],
    target: Annotated[str, Query(max_length=63)] = "",
) -> Card:
    """What one should know before using a version."""
    return plane.cards.card(name, target)


@router.get("/algorithms/{name}/callers")
def callers(
    name: str,
    plane: Plane,
    actor: Annotated[Actor, may("caller.read", "algorithm")],
    version: OneVersion = None,
) -> list[Caller]:
    """Departments and keys that called in the last 30 days; for the owner, admins, auditors."""
    return plane.undertaker.callers(name, version)


@router.post("/algorithms/{name}/retirement", status_code=201)
def retire(
    name: str,
    new: NewRetirement,
    plane: Plane,
    actor: Annotated[Actor, may("algorithm.retire", "algorithm")],
) -> Retirement:
    """Give notice: answers carry Deprecation and Sunset, and end with 410 after the sunset."""
    return plane.undertaker.retire(name, new, actor)


@router.delete("/algorithms/{name}/retirement")
def undo_retirement(
    name: str,
    plane: Plane,
    actor: Annotated[Actor, may("algorithm.retire", "algorithm")],
    version: OneVersion = None,
) -> dict[str, str]:
    """Take the notice back."""
    plane.undertaker.undo(name, version, actor)
    return {"state": "undone"}


@router.post("/algorithms/{name}/versions/{version}/withdraw")
def withdraw_version(
    name: str,
    version: int,
    why: Withdrawal,
    plane: Plane,
    actor: Annotated[Actor, may("version.end", "algorithm")],
) -> VersionEnd:
    """Close a mistaken version; refused while it is champion or deployed."""
    return plane.undertaker.withdraw(name, version, why.reason, actor)


@router.delete("/algorithms/{name}/versions/{version}")
def delete_version(
    name: str, version: int, plane: Plane, actor: Annotated[Actor, may("version.end", "algorithm")]
) -> VersionEnd:
    """Remove a withdrawn version and its files; its history stays."""
    return plane.undertaker.delete(name, version, actor)
