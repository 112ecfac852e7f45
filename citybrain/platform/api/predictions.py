"""The sampled prediction log: how much is kept, and its rows for who may see them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from citybrain.core.dates import read_moment
from citybrain.core.schemas import Actor, NewSampling, Prediction, Sampling
from citybrain.platform.api.access import Plane, may
from citybrain.platform.policy import reaches
from citybrain.platform.wiring import ControlPlane
from citybrain.storage.records import audit

router = APIRouter(tags=["predictions"])
MOST = 1000


@router.get("/algorithms/{name}/sampling")
def get_sampling(
    name: str, plane: Plane, actor: Annotated[Actor, may("sampling.read")]
) -> Sampling:
    """Which share of the calls is kept, and how long."""
    plane.catalogue.algorithm(name)
    return plane.predictions.sampling(name)


@router.put("/algorithms/{name}/sampling")
def put_sampling(
    name: str,
    new: NewSampling,
    plane: Plane,
    actor: Annotated[Actor, may("sampling.set", "algorithm")],
) -> Sampling:
    """Keep more or less of the calls from now on; an empty body: as the platform does."""
    return plane.predictions.sample(name, new, actor)


@router.get("/algorithms/{name}/predictions")
def list_predictions(
    name: str,
    plane: Plane,
    actor: Annotated[Actor, may("prediction.read")],
    since: str = "",
    limit: int = 100,
) -> list[Prediction]:
    """Sampled calls, newest first: the owner sees all of them, a department its own."""
    department = _whose(plane, name, actor)
    moment = read_moment(since, plane.truths.settings.zone) if since else None
    return plane.predictions.find(name, department, moment, max(1, min(limit, MOST)))


@router.get("/algorithms/{name}/predictions.parquet")
def export_predictions(
    name: str, plane: Plane, actor: Annotated[Actor, may("prediction.read")], since: str = ""
) -> FileResponse:
    """The same as one Parquet file, by day, without a limit."""
    department = _whose(plane, name, actor)
    moment = read_moment(since, plane.truths.settings.zone) if since else None
    with tempfile.NamedTemporaryFile(dir=plane.truths.home.work, delete=False) as file:
        path = Path(file.name)
    try:
        plane.predictions.export(name, path, department, moment)
    except BaseException:
        path.unlink()
        raise
    return FileResponse(
        path, media_type="application/vnd.apache.parquet", filename=f"{name}.parquet",
        background=BackgroundTask(path.unlink),
    )  # fmt: skip


def _whose(plane: ControlPlane, name: str, actor: Actor) -> str:
    """Whose calls this caller sees; nothing: everybody's, which is written down."""
    owner = plane.catalogue.algorithm(name).owner
    if not reaches(actor, "prediction.all", owner):
        return actor.department
    audit.write(plane.truths.database, actor, "predictions.read", name)
    return ""
