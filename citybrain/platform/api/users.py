"""People who sign in to the console: let them in, change what they are, let them in no more."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from citybrain.core.levels import Level
from citybrain.core.schemas import Actor, IssuedUser, Key, NewKey, NewUser, Role, User, UserChange
from citybrain.platform.api.access import Plane, Under, may, may_key, part_of
from citybrain.platform.policy import check_not_more

router = APIRouter(prefix="/users", tags=["users"])
Changer = Annotated[Actor, may("user.set")]
ChangersKey = Annotated[Key, may_key("user.set")]


@router.get("")
def list_users(
    plane: Plane, actor: Annotated[Actor, may("user.read")], under: Under = ""
) -> list[User]:
    """People, of all departments or of a part of the tree."""
    part = part_of(plane, under)
    found = plane.truths.users.find()
    return [one for one in found if part is None or one.department in part]


@router.post("", status_code=201)
def add_user(new: NewUser, plane: Plane, key: ChangersKey) -> IssuedUser:
    """Let a person in; the one-time password is in this answer and nowhere else."""
    _check_not_more(key, new.department, new.role, new.level)
    return plane.reception.add(new, Actor.of(key))


@router.patch("/{name}")
def change_user(name: str, change: UserChange, plane: Plane, key: ChangersKey) -> User:
    """Another department, role, level or title; open sessions end."""
    user = plane.truths.users.get(name)
    _check_not_more(
        key, change.department or user.department, change.role or user.role,
        change.level or user.level,
    )  # fmt: skip
    return plane.truths.users.change(name, change, Actor.of(key))


@router.post("/{name}/reset")
def reset_user(name: str, plane: Plane, key: ChangersKey) -> IssuedUser:
    """A new one-time password for who lost theirs, or their codes; never for oneself."""
    user = plane.truths.users.get(name)
    _check_not_more(key, user.department, user.role, user.level)
    return plane.reception.reset(name, Actor.of(key))


@router.post("/{name}/disable")
def disable_user(name: str, plane: Plane, actor: Changer) -> User:
    """Let a person in no more; open sessions end within a second."""
    return plane.truths.users.disable(name, actor)


@router.post("/{name}/enable")
def enable_user(name: str, plane: Plane, actor: Changer) -> User:
    """Let a person in again, with what they had; a lock is taken off, too."""
    return plane.truths.users.enable(name, actor)


def _check_not_more(key: Key, department: str, role: Role, level: Level) -> None:
    """Whoever lets somebody in could come in as them."""
    check_not_more(key, NewKey(department=department, role=role, level=level))
