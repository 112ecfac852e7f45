"""Who vouches for versions: the platform's signing keys."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from citybrain.core.errors import InvalidInput
from citybrain.core.names import Ref
from citybrain.core.schemas import Actor, Version
from citybrain.models.package import folder_digest
from citybrain.platform.api.access import Plane, may
from citybrain.storage.records.audit import write

router = APIRouter(tags=["signers"])


@router.get("/signers")
def list_signers(
    plane: Plane, actor: Annotated[Actor, may("signer.read")]
) -> dict[str, dict[str, str]]:
    """Every signing key by name: its public half in hex, its state, since when."""
    return plane.catalogue.signers.all()


@router.post("/signers")
def rotate(plane: Plane, actor: Annotated[Actor, may("signer.set")]) -> dict[str, dict[str, str]]:
    """Sign with a new key from now on; the one before stays trusted."""
    with plane.catalogue.lock:
        name = plane.catalogue.signers.rotate()
        write(plane.truths.database, actor, "signer.rotate", name)
    return plane.catalogue.signers.all()


@router.post("/signers/{name}/revoke")
def revoke(
    name: str, plane: Plane, actor: Annotated[Actor, may("signer.set")]
) -> dict[str, dict[str, str]]:
    """Trust a key no more: what it signed is refused until it is signed again."""
    with plane.catalogue.lock:
        plane.catalogue.signers.revoke(name)
        write(plane.truths.database, actor, "signer.revoke", name)
    return plane.catalogue.signers.all()


@router.post("/algorithms/{name}/versions/{version}/sign")
def sign(
    name: str, version: int, plane: Plane, actor: Annotated[Actor, may("signer.set")]
) -> Version:
    """Vouch for a version again, after its signer was revoked; its files must be the registered ones."""
    digest = plane.truths.history.registered_digest(name, version)
    with plane.catalogue.lock:
        found = plane.catalogue.version(Ref(name, str(version)))
        folder = plane.truths.home.packages / found.digest
        if found.digest != digest or (folder.is_dir() and folder_digest(folder) != digest):
            raise InvalidInput(
                f"The files of {name}@{version} are not those that were registered.",
                hint="Register the model again as a new version.",
            )
        plane.catalogue.sign(name, version, digest)
        write(plane.truths.database, actor, "version.sign", f"{name}@{version}", digest=digest)
    return found
