"""How an algorithm's calls are shared, canaries, and what shadows answered."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter

from citybrain.core.schemas import Actor, Canary, Comparison, NewCanary, NewTraffic, Traffic
from citybrain.platform.api.access import Plane, may
from citybrain.serving.rollout import shadow

router = APIRouter(tags=["rollouts"])


@router.get("/algorithms/{name}/traffic")
def get_traffic(name: str, plane: Plane, actor: Annotated[Actor, may("traffic.read")]) -> Traffic:
    """How calls that name no alias are shared now."""
    plane.catalogue.algorithm(name)
    return plane.truths.traffics.get(name)


@router.put("/algorithms/{name}/traffic")
def put_traffic(
    name: str,
    new: NewTraffic,
    plane: Plane,
    actor: Annotated[Actor, may("traffic.set", "algorithm")],
) -> Traffic:
    """Share calls among deployments; an empty plan sends all to the champion."""
    return plane.rollouts.put(name, new, actor)


@router.get("/algorithms/{name}/comparison")
def compare(
    name: str, plane: Plane, actor: Annotated[Actor, may("canary.read")]
) -> list[Comparison]:
    """Whether one side of a split, or of the last canary, fails less or is faster than the other."""
    return plane.rollouts.compare(name)


@router.get("/canaries")
def list_all_canaries(plane: Plane, actor: Annotated[Actor, may("canary.read")]) -> list[Canary]:
    """Releases of every algorithm that were tried on live calls, newest first."""
    return plane.truths.traffics.canaries()


@router.get("/algorithms/{name}/canaries")
def list_canaries(
    name: str, plane: Plane, actor: Annotated[Actor, may("canary.read")]
) -> list[Canary]:
    """Releases that were tried on live calls, newest first."""
    plane.catalogue.algorithm(name)
    return plane.truths.traffics.canaries(name)


@router.post("/algorithms/{name}/canaries", status_code=201)
def start_canary(
    name: str, new: NewCanary, plane: Plane, actor: Annotated[Actor, may("canary.set", "algorithm")]
) -> Canary:
    """Try a deployed release on a growing part of the calls; it undoes itself when it is worse."""
    return plane.rollouts.start(name, new, actor)


@router.delete("/algorithms/{name}/canaries")
def stop_canary(
    name: str, plane: Plane, actor: Annotated[Actor, may("canary.set", "algorithm")]
) -> Canary:
    """Take the canary back now."""
    return plane.rollouts.stop(name, actor)


@router.get("/algorithms/{name}/shadow")
def shadow_report(
    name: str, plane: Plane, actor: Annotated[Actor, may("shadow.read", "algorithm")]
) -> dict[str, Any]:
    """How far a shadow's answers were from those that callers got, and where the most."""
    plane.catalogue.algorithm(name)
    return shadow.report(plane.truths.home.shadows, name)
