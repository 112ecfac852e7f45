"""Departments, keys and grants."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from citybrain.core.errors import NotAllowed
from citybrain.core.schemas import (
    Actor,
    Department,
    DepartmentChange,
    Grant,
    IssuedKey,
    Key,
    NewDepartment,
    NewGrant,
    NewKey,
    NewRotation,
)
from citybrain.platform.api.access import Plane, Under, check_own, may, may_key, part_of
from citybrain.platform.issuing import issue_key, rotate_key
from citybrain.platform.policy import check_not_more, check_scopes, reaches_all, whose

router = APIRouter(tags=["departments"])


@router.get("/me")
def who_am_i(actor: Annotated[Actor, may("self.read")]) -> dict[str, str]:
    """The key, department and role of the caller."""
    return actor.model_dump()


@router.get("/departments")
def list_departments(
    plane: Plane, actor: Annotated[Actor, may("department.read")], under: Under = ""
) -> list[Department]:
    """All departments, or one with all below it: `parent` tells the tree."""
    return plane.truths.people.departments(under)


@router.post("/departments", status_code=201)
def add_department(
    new: NewDepartment, plane: Plane, actor: Annotated[Actor, may("department.set")]
) -> Department:
    """Add a department."""
    return plane.truths.people.add_department(new, actor)


@router.patch("/departments/{name}")
def change_department(
    name: str, change: DepartmentChange, plane: Plane,
    actor: Annotated[Actor, may("department.set")],
) -> Department:  # fmt: skip
    """Give a department another title, or another place in the tree."""
    return plane.truths.people.change_department(name, change, actor)


@router.get("/keys")
def list_keys(
    plane: Plane, actor: Annotated[Actor, may("key.read")], under: Under = ""
) -> list[Key]:
    """Keys, of all departments for who oversees them, else of one's own; never a secret."""
    part = part_of(plane, under)
    return [key for key in plane.truths.people.keys(whose(actor, "key.read"))
            if part is None or key.department in part]  # fmt: skip


@router.post("/keys", status_code=201)
def add_key(new: NewKey, plane: Plane, key: Annotated[Key, may_key("key.issue")]) -> IssuedKey:
    """Issue a key; its secret is in this answer and nowhere else."""
    check_scopes(new.scopes)
    check_not_more(key, new)
    return issue_key(plane.truths, new, Actor.of(key))


@router.post("/keys/{key_id}/rotation", status_code=201)
def replace_key(
    key_id: str, new: NewRotation, plane: Plane, key: Annotated[Key, may_key("key.rotate", "key")]
) -> IssuedKey:
    """A new key with the same rights; the old one goes on for the overlap, then ends."""
    old = plane.truths.people.key(key_id)
    check_not_more(key, old)
    if new.expires_at and not reaches_all(key, "key.rotate"):
        raise NotAllowed("Only an admin gives a key another end.", hint="Leave expires_at out.")
    return rotate_key(plane.truths, key_id, new, Actor.of(key))


@router.delete("/keys/{key_id}")
def revoke_key(key_id: str, plane: Plane, actor: Annotated[Actor, may("key.revoke")]) -> Key:
    """Revoke a key; every gateway refuses it within a second."""
    return plane.truths.people.revoke_key(key_id, actor)


@router.get("/grants")
def list_grants(
    plane: Plane, actor: Annotated[Actor, may("grant.read")], under: Under = ""
) -> list[Grant]:
    """Grants, of all departments for who oversees them, else of one's own."""
    part = part_of(plane, under)
    return [grant for grant in plane.truths.people.grants(whose(actor, "grant.read"))
            if part is None or grant.department in part]  # fmt: skip


@router.post("/grants", status_code=201)
def add_grant(new: NewGrant, plane: Plane, actor: Annotated[Actor, may("grant.give")]) -> Grant:
    """The owner of an algorithm, or an admin, lets a department call it for what it was made for."""
    check_own(plane, actor, "grant.give", "algorithm", new.algorithm)
    plane.cards.check_purpose(new.algorithm, new.purpose)
    return plane.truths.people.add_grant(new, actor)


@router.delete("/grants/{grant_id}")
def revoke_grant(grant_id: str, plane: Plane, actor: Annotated[Actor, may("grant.end")]) -> Grant:
    """End a grant."""
    return plane.truths.people.revoke_grant(grant_id, actor)
