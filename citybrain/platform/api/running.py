"""Deployments, usage, features, logs and the state of the platform."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import Field

from citybrain.core.errors import UNTRUSTED, InvalidInput, RowNotFound
from citybrain.core.names import Ref, check_name
from citybrain.core.schemas import (
    Actor,
    Deployment,
    NewDeployment,
    PlatformStatus,
    UsageLine,
    UsageMinute,
)
from citybrain.core.schemas.people import Said
from citybrain.platform.api.access import Plane, Under, may, part_of
from citybrain.platform.logs import replica_log
from citybrain.platform.policy import whose
from citybrain.platform.state import platform_status
from citybrain.serving.resources import (
    refuse_number,
    refuse_replicas,
    refuse_resources,
    refuse_sharing,
)

router = APIRouter(tags=["running"])
data_router = APIRouter(tags=["features"])
metrics_router = APIRouter(tags=["metrics"])


@router.get("/status")
def status(plane: Plane, actor: Annotated[Actor, may("platform.read")]) -> PlatformStatus:
    """What runs, where, since when."""
    return platform_status(plane)


@router.get("/deployments")
def list_deployments(
    plane: Plane, actor: Annotated[Actor, may("deployment.read")]
) -> list[Deployment]:
    """What should run, and what the reconciler last saw."""
    return plane.reconciler.deployments()


@router.put("/deployments/{name}", status_code=202)
def deploy(
    name: str,
    new: NewDeployment,
    plane: Plane,
    actor: Annotated[Actor, may("deployment.set", "algorithm")],
) -> Deployment:
    """Ask for a deployment; look at it until it is running or failed."""
    plane.catalogue.algorithm(name)
    if not new.target.isdigit():
        check_name(new.target, "alias")
    version = plane.catalogue.resolve(Ref(name, new.target))
    try:
        plane.catalogue.folder(name, version)
    except UNTRUSTED as error:
        plane.truths.deployments.refuse(name, version, error.message, actor)
        raise
    if new.shared:
        refuse_sharing(plane.catalogue.manifest(name, version))
    if new.most > 1 or new.scaling:
        refuse_replicas(plane.catalogue.manifest(name, version))
    refuse_resources(new, plane.catalogue.manifest(name, version), plane.reconciler.capacity)
    refuse_number(new, name, plane.reconciler.capacity)
    return plane.allotments.want(name, new, actor)


@router.get("/deployments/{name}/{target}")
def get_deployment(
    name: str, target: str, plane: Plane, actor: Annotated[Actor, may("deployment.read")]
) -> Deployment:
    """One deployment."""
    return plane.reconciler.deployment(name, target)


@router.delete("/deployments/{name}/{target}", status_code=202)
def undeploy(
    name: str,
    target: str,
    plane: Plane,
    actor: Annotated[Actor, may("deployment.set", "algorithm")],
) -> dict[str, str]:
    """Take a deployment down."""
    plane.catalogue.algorithm(name)
    plane.truths.deployments.unwant(name, target, actor)
    return {"state": "removing"}


@router.get("/deployments/{name}/{target}/log")
def deployment_log(
    name: str,
    target: str,
    plane: Plane,
    actor: Annotated[Actor, may("deployment.log", "algorithm")],
    lines: int = 100,
) -> dict[str, Any]:
    """Why a version did not start, and the end of its replica's log, which may show inputs."""
    found = plane.truths.deployments.get(name, target)
    return {
        "state": found.state,
        "version": found.version,
        "message": found.message,
        "log": replica_log(plane.truths.home, found, min(lines, 2000)),
    }


@metrics_router.get("/metrics")
def metrics(plane: Plane, actor: Annotated[Actor, may("metrics.read")]) -> Response:
    """Calls, rows and latency of every algorithm for Prometheus, from the ledger."""
    kind = "text/plain; version=0.0.4; charset=utf-8"
    return Response(plane.truths.metrics.text(), headers={"content-type": kind})


@router.get("/usage")
def usage(
    plane: Plane, actor: Annotated[Actor, may("usage.read")], since: str = "", under: Under = ""
) -> list[UsageLine]:
    """Usage by day, of all departments for who oversees them, else of one's own."""
    own, part = whose(actor, "usage.read"), part_of(plane, under)
    if part is None:
        return plane.truths.usage.days(department=own, since=since)
    found = [
        line
        for department in sorted(part)
        if own in ("", department)
        for line in plane.truths.usage.days(department=department, since=since)
    ]
    return sorted(found, key=lambda line: (line.day, line.requests), reverse=True)


@router.get("/usage/minutes")
def usage_minutes(
    plane: Plane, actor: Annotated[Actor, may("usage.minutes")], last: int = 60, algorithm: str = ""
) -> list[UsageMinute]:
    """Calls and latency by minute, of all departments together: for admins and auditors."""
    return plane.truths.usage.minutes(last=max(1, min(last, 10_080)), algorithm=algorithm)


@data_router.get("/v1/requests/{request_id}")
def one_request(
    request_id: str, plane: Plane, actor: Annotated[Actor, may("request.read", "call")]
) -> dict[str, Any]:
    """The ledger's row of one call, for the department that made it."""
    found = plane.truths.usage.request(request_id)
    if found is None:
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
def push(body: Push, plane: Plane, actor: Annotated[Actor, may("feature.push")]) -> dict[str, int]:
    """Write histories of sensors, online and offline."""
    for row in body.rows:
        if row.last_time.tzinfo is None:
            raise InvalidInput(f"last_time of {row.sensor} needs a time zone.")
    written = plane.features.push([row.model_dump() for row in body.rows])
    return {"rows": written}


@data_router.post("/v1/features/online")
def online(
    body: Online, plane: Plane, actor: Annotated[Actor, may("feature.read")]
) -> dict[str, Any]:
    """Read the history that an algorithm would get for these entities."""
    found = plane.features.history(body.service, body.entities)
    return {
        "rows": [
            None if row is None else {"values": row[0], "last_time": row[1].isoformat()}
            for row in found
        ]
    }
