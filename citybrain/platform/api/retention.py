"""How long logs and payloads are kept."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from citybrain.core.schemas import Actor
from citybrain.core.schemas.retention import NewRetention, Retention
from citybrain.platform.api.access import Plane, may

router = APIRouter(tags=["retention"])


@router.get("/retention")
def list_retention(plane: Plane, actor: Annotated[Actor, may("retention.read")]) -> list[Retention]:
    """Every log, and how long it is kept."""
    return plane.retention.all()


@router.put("/retention/{log}")
def set_retention(
    log: str, new: NewRetention, plane: Plane, actor: Annotated[Actor, may("retention.set")]
) -> Retention:
    """Keep a log so many days; what is older goes within minutes."""
    return plane.retention.put(log, new.days, actor)
