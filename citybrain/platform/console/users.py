"""People who sign in: for admins to let in, change and reset, for auditors to look at."""

from __future__ import annotations

from typing import Annotated, get_args

from fastapi import Request, Response

from citybrain.core.levels import Level
from citybrain.core.schemas import Key, Role
from citybrain.platform.api.access import Plane, may_key
from citybrain.platform.console.door import pages, show
from citybrain.storage.moments import now

router = pages()


@router.get("/users")
def users(request: Request, plane: Plane, key: Annotated[Key, may_key("user.read")]) -> Response:
    """Everybody, with what they may and whether they are signed in."""
    departments = plane.truths.people.departments()
    return show(
        request, "users.html", key=key, people=plane.truths.users.find(), now=now(),
        departments=departments, titles={one.name: one for one in departments},
        roles=get_args(Role), levels=list(Level),
    )  # fmt: skip
