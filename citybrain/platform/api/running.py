"""Deployments, usage, features, logs and the state of the platform."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from pydantic import Field

from citybrain.core.errors import InvalidInput, NotAllowed, RowNotFound
from citybrain.core.names import Ref, check_name
from citybrain.core.schemas import (
    Deployment,
    NewDeployment,
    PlatformStatus,
    UsageLine,
    UsageMinute,
)
from citybrain.core.schemas.people import Said
from citybrain.platform.api.access import AnyRole, Auditor, Developer, Plane
from citybrain.platform.logs import replica_log
from citybrain.platform.state import platform_status

router = APIRouter(tags=["running"])
data_router = APIRouter(tags=["features"])


@router.get("/status")
def status(plane: Plane, actor: AnyRole) -> PlatformStatus:
    """What runs, where, since when."""
    return platform_status(plane)


@router.get("/deployments")
def list_deployments(plane: Plane, actor: AnyRole) -> list[Deployment]:
    """What should run, and what the reconciler last saw."""
    return plane.truths.deployments.all()


@router.put("/deployments/{name}", status_code=202)
def deploy(name: str, new: NewDeployment, plane: Plane, actor: Developer) -> Deployment:
    """Ask for a deployment; look at it until it is running or failed."""
    algorithm = plane.catalogue.algorithm(name)
    if actor.role != "admin" and actor.department != algorithm.owner:
        raise NotAllowed(f"{name} belongs to {algorithm.owner}, not to {actor.department}.")
    if not new.target.isdigit():
        check_name(new.target, "alias")
    version = plane.catalogue.resolve(Ref(name, new.target))
    plane.catalogue.folder(name, version)
    return plane.truths.deployments.want(name, new.target, new.replicas, actor)


@router.get("/deployments/{name}/{target}")
def get_deployment(name: str, target: str, plane: Plane, actor: AnyRole) -> Deployment:
    """One deployment."""
    return plane.truths.deployments.get(name, target)


@router.delete("/deployments/{name}/{target}", status_code=202)
def undeploy(name: str, target: str, plane: Plane, actor: Developer) -> dict[str, str]:
    """Take a deployment down."""
    algorithm = plane.catalogue.algorithm(name)
    if actor.role != "admin" and actor.department != algorithm.owner:
        raise NotAllowed(f"{name} belongs to {algorithm.owner}, not to {actor.department}.")
    plane.truths.deployments.unwant(name, target, actor)
    return {"state": "removing"}


@router.get("/deployments/{name}/{target}/log")
def deployment_log(
    name: str, target: str, plane: Plane, actor: Developer, lines: int = 100
) -> dict[str, Any]:
    """Why a version did not start, and the end of its replica's log."""
    found = plane.truths.deployments.get(name, target)
    return {
        "state": found.state,
        "version": found.version,
        "message": found.message,
        "log": replica_log(plane.truths.home, name, target, min(lines, 2000)),
    }


@router.get("/usage")
def usage(plane: Plane, actor: AnyRole, since: str = "") -> list[UsageLine]:
    """Usage by day; an admin sees all departments, others their own."""
    department = "" if actor.role in ("admin", "auditor") else actor.department
    return plane.truths.usage.days(department=department, since=since)


@router.get("/usage/minutes")
def usage_minutes(
    plane: Plane, actor: Auditor, last: int = 60, algorithm: str = ""
) -> list[UsageMinute]:
    """Calls and latency by minute, of all departments together: for admins and auditors."""
    return plane.truths.usage.minutes(last=max(1, min(last, 10_080)), algorithm=algorithm)


@data_router.get("/v1/requests/{request_id}")
def one_request(request_id: str, plane: Plane, actor: AnyRole) -> dict[str, Any]:
    """The ledger's row of one call, for the department that made it."""
    found = plane.truths.usage.request(request_id)
    if found is None or (actor.role != "admin" and found["department"] != actor.department):
        raise RowNotFound(
            "There is no such call in the ledger.", hint="A call appears within a second or two."
        )
    return found


class History(Said):
    """The history of one entity."""

    sensor: str = Field(min_length=1, max_length=200)
    values: list[float] = Field(min_length=1, max_length=10_000)
    last_time: datetime


class Push(Said):
    """Histories to write to the feature store."""

    rows: list[History] = Field(min_length=1, max_length=5000)


class Online(Said):
    """Entities to read."""

    service: str = Field(max_length=63)
    entities: list[str] = Field(min_length=1, max_length=1000)


@data_router.post("/v1/features/push")
def push(body: Push, plane: Plane, actor: Developer) -> dict[str, int]:
    """Write histories of sensors, online and offline."""
    for row in body.rows:
        if row.last_time.tzinfo is None:
            raise InvalidInput(f"last_time of {row.sensor} needs a time zone.")
    written = plane.features.push([row.model_dump() for row in body.rows])
    return {"rows": written}


@data_router.post("/v1/features/online")
def online(body: Online, plane: Plane, actor: AnyRole) -> dict[str, Any]:
    """Read the history that an algorithm would get for these entities."""
    found = plane.features.history(body.service, body.entities)
    return {
        "rows": [
            None if row is None else {"values": row[0], "last_time": row[1].isoformat()}
            for row in found
        ]
    }
