"""The audit trail: its entries, its checkpoints and its proof, for auditors."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from pydantic import Field

from citybrain.core.dates import read_moment
from citybrain.core.schemas import Actor, AuditEntry
from citybrain.core.schemas.audits import Checkpoint, Verification
from citybrain.core.schemas.people import Said
from citybrain.platform.api.access import Plane, may
from citybrain.storage.records.audit import entries, write

router = APIRouter(tags=["audit"])


class Kept(Said):
    """Checkpoints that were kept elsewhere."""

    checkpoints: list[Checkpoint] = Field(default_factory=list, max_length=20_000)


@router.get("/audit")
def list_audit(
    plane: Plane, actor: Annotated[Actor, may("audit.read")], after: int = 0, limit: int = 200
) -> list[AuditEntry]:
    """The audit trail, newest first."""
    return entries(plane.truths.database, after=after, limit=min(limit, 1000))


@router.get("/audit/checkpoints")
def list_checkpoints(plane: Plane, actor: Annotated[Actor, may("audit.read")]) -> list[Checkpoint]:
    """How far the trail was on each day, signed; keep them elsewhere."""
    return plane.audits.chain.checkpoints()


@router.post("/audit/verification")
def verify(kept: Kept, plane: Plane, actor: Annotated[Actor, may("audit.read")]) -> Verification:
    """Whether the trail is as it was written; else the first entry that is not, and why."""
    return plane.audits.verify(kept.checkpoints)


@router.get("/audit/export")
def export(
    plane: Plane, actor: Annotated[Actor, may("audit.read")], since: str = "", until: str = ""
) -> StreamingResponse:
    """Entries as JSON lines; the whole trail can be verified without the platform's database."""
    zone = plane.truths.settings.zone
    begin = read_moment(since, zone) if since else None
    end = read_moment(until, zone) if until else None
    write(plane.truths.database, actor, "audit.export", "audit", since=since, until=until)
    return StreamingResponse(plane.audits.export(begin, end), media_type="application/x-ndjson")
