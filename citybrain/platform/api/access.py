"""Who calls a control route, and whether the role may."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request

from citybrain.core.errors import BadKey, MissingKey, NotAllowed
from citybrain.core.keys import is_mistyped, key_digest, read_session
from citybrain.core.schemas import Actor, Key
from citybrain.platform.wiring import ControlPlane
from citybrain.serving.gateway.messages import SESSION
from citybrain.storage.moments import now


def plane(request: Request) -> ControlPlane:
    """The control plane behind this application."""
    found: ControlPlane = request.app.state.plane
    return found


def key_of(request: Request) -> Key:
    """The living key of a request: its bearer key, or the console session it comes with."""
    control = plane(request)
    scheme, _, shown = request.headers.get("authorization", "").partition(" ")
    living = dict(control.truths.people.living_keys(now()))
    if scheme.lower() == "bearer" and shown:
        found = living.get(key_digest(control.truths.pepper, shown.strip()))
        if found is None:
            raise BadKey(
                "This key is not known, or has ended.",
                hint="It looks mistyped." if is_mistyped(shown.strip()) else "Ask for a new one.",
            )
        return found
    session = request.cookies.get(SESSION, "")
    same_page = request.headers.get("x-requested-with") == "citybrain"
    if session and (request.method == "GET" or same_page):
        key_id = read_session(control.truths.pepper, session)
        for key in living.values():
            if key.id == key_id:
                return key
        raise BadKey("The session has ended.", hint="Sign in again.")
    raise MissingKey("This call carries no key.", hint="Send: Authorization: Bearer cb_…")


def actor_of(key: Annotated[Key, Depends(key_of)]) -> Actor:
    """Who acts."""
    return Actor(key=key.id, department=key.department, role=key.role)


def check_owner(plane: ControlPlane, name: str, actor: Actor) -> None:
    """Refuse who is neither an admin nor of the department that owns the algorithm."""
    owner = plane.catalogue.algorithm(name).owner
    if actor.role != "admin" and actor.department != owner:
        raise NotAllowed(f"{name} belongs to {owner}, not to {actor.department}.")


Plane = Annotated[ControlPlane, Depends(plane)]
AnyRole = Annotated[Actor, Depends(actor_of)]


def _only(*roles: str) -> Callable[[Actor], Actor]:
    def check(actor: AnyRole) -> Actor:
        if actor.role not in roles:
            raise NotAllowed(
                f"The role {actor.role} may not do this.",
                hint=f"It takes a key with the role {' or '.join(roles)}.",
            )
        return actor

    return check


Admin = Annotated[Actor, Depends(_only("admin"))]
Developer = Annotated[Actor, Depends(_only("admin", "developer"))]
Auditor = Annotated[Actor, Depends(_only("admin", "auditor"))]
