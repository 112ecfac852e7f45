"""Departments, keys, grants and the audit trail."""

from __future__ import annotations

from fastapi import APIRouter

from citybrain.core.errors import NotAllowed
from citybrain.core.schemas import (
    AuditEntry,
    Department,
    Grant,
    IssuedKey,
    Key,
    NewDepartment,
    NewGrant,
    NewKey,
)
from citybrain.platform.api.access import Admin, AnyRole, Auditor, Plane
from citybrain.platform.wiring import issue_key
from citybrain.storage.records.audit import entries

router = APIRouter(tags=["departments"])


@router.get("/me")
def who_am_i(actor: AnyRole) -> dict[str, str]:
    """The key, department and role of the caller."""
    return actor.model_dump()


@router.get("/departments")
def list_departments(plane: Plane, actor: AnyRole) -> list[Department]:
    """All departments."""
    return plane.truths.people.departments()


@router.post("/departments", status_code=201)
def add_department(new: NewDepartment, plane: Plane, actor: Admin) -> Department:
    """Add a department."""
    return plane.truths.people.add_department(new, actor)


@router.get("/keys")
def list_keys(plane: Plane, actor: AnyRole) -> list[Key]:
    """An admin sees all keys, others those of their department; never a secret."""
    return plane.truths.people.keys("" if actor.role == "admin" else actor.department)


@router.post("/keys", status_code=201)
def add_key(new: NewKey, plane: Plane, actor: Admin) -> IssuedKey:
    """Issue a key; its secret is in this answer and nowhere else."""
    return issue_key(plane.truths, new, actor)


@router.delete("/keys/{key_id}")
def revoke_key(key_id: str, plane: Plane, actor: Admin) -> Key:
    """Revoke a key; every gateway refuses it within a second."""
    return plane.truths.people.revoke_key(key_id, actor)


@router.get("/grants")
def list_grants(plane: Plane, actor: AnyRole) -> list[Grant]:
    """An admin sees all grants, others those of their department."""
    return plane.truths.people.grants("" if actor.role == "admin" else actor.department)


@router.post("/grants", status_code=201)
def add_grant(new: NewGrant, plane: Plane, actor: AnyRole) -> Grant:
    """The owner of an algorithm, or an admin, lets a department call it."""
    owner = plane.catalogue.algorithm(new.algorithm).owner
    if actor.role != "admin" and (actor.role != "developer" or actor.department != owner):
        raise NotAllowed(f"Only {owner} or an admin grants {new.algorithm}.")
    return plane.truths.people.add_grant(new, actor)


@router.delete("/grants/{grant_id}")
def revoke_grant(grant_id: str, plane: Plane, actor: Admin) -> Grant:
    """End a grant."""
    return plane.truths.people.revoke_grant(grant_id, actor)


@router.get("/audit")
def list_audit(plane: Plane, actor: Auditor, after: int = 0, limit: int = 200) -> list[AuditEntry]:
    """The audit trail, newest first."""
    return entries(plane.truths.database, after=after, limit=min(limit, 1000))
