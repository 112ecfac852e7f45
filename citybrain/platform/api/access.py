"""Who calls a control route, and whether the policy lets it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Query, Request

from citybrain.core.addresses import is_within, read_networks
from citybrain.core.errors import (
    AlgorithmNotFound,
    BadKey,
    CityBrainError,
    MissingKey,
    NetworkNotAllowed,
    RowNotFound,
)
from citybrain.core.keys import is_mistyped, key_digest, read_session
from citybrain.core.schemas import Actor, Conversion, Evaluation, Key
from citybrain.platform import policy
from citybrain.platform.wiring import ControlPlane
from citybrain.serving.denials import is_denial
from citybrain.serving.gateway.messages import SESSION
from citybrain.storage.moments import now
from citybrain.storage.records.owners import EVERYBODY

NAMED = {
    "algorithm": "name", "call": "request_id", "conversion": "conversion_id",
    "evaluation": "evaluation_id", "grant": "grant_id", "job": "job_id", "key": "key_id", "promotion": "promotion_id",
    "department": "department", "request": "request_id", "asking": "request_id",
}  # fmt: skip
"""The path parameter that names an object of each kind.

A request for a grant is of two: who owns the algorithm answers it, who asked takes it back.
"""
NOT_YOURS = "What belongs to another department is not found either."


def plane(request: Request) -> ControlPlane:
    """The control plane behind this application."""
    found: ControlPlane = request.app.state.plane
    return found


Plane = Annotated[ControlPlane, Depends(plane)]


Under = Annotated[str, Query(max_length=63, description="Of this department and all below it.")]
"""What lists take that show more than one department."""


def part_of(control: ControlPlane, under: str) -> set[str] | None:
    """The departments of a part of the tree; None: of the whole."""
    return {one.name for one in control.truths.people.departments(under)} if under else None


def living_key(control: ControlPlane, shown: str) -> Key:
    """The key that somebody shows, or BadKey."""
    found = control.truths.people.shown_key(key_digest(control.truths.pepper, shown), now())
    if found is None:
        raise BadKey(
            "This key is not known, or has ended.",
            hint="It looks mistyped." if is_mistyped(shown) else "Ask for a new one.",
        )
    return found


def key_of(request: Request) -> Key:
    """The living key of a request: its bearer key, or the console session it comes with."""
    if not hasattr(request.state, "key"):
        found = _key_of(request)
        request.state.holder = found
        check_place(request, found)
        address = request.client.host if request.client else ""
        request.state.key = found.model_copy(update={"source": address})
    key: Key = request.state.key
    return key


def check_place(request: Request, key: Key) -> None:
    """NetworkNotAllowed for a key that may not come from where this request does."""
    address = request.client.host if request.client else ""
    if key.networks and not is_within(address, read_networks(key.networks)):
        raise NetworkNotAllowed(f"The key {key.id} may not be used from {address[:45]}.")


def note_denial(request: Request, error: Exception) -> None:
    """Count a refusal for the audit trail, if it is one of who asks or of what."""
    if not is_denial(error):
        return
    assert isinstance(error, CityBrainError)
    route, state = request.scope.get("route"), request.state
    target = f"{request.method} {getattr(route, 'path', '')}" if route is not None else ""
    plane(request).denials.own.count(
        error, getattr(state, "holder", None), request.client.host if request.client else "",
        target, "api", action=getattr(state, "action", "request"),
    )  # fmt: skip


def _key_of(request: Request) -> Key:
    control = plane(request)
    scheme, _, shown = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and shown:
        return living_key(control, shown.strip())
    session = request.cookies.get(SESSION, "")
    # Neither header can be sent by a foreign page: the first is ours, the second the browser's own.
    same_page = (
        request.headers.get("x-requested-with") == "citybrain"
        or request.headers.get("sec-fetch-site") == "same-origin"
    )
    if session and (request.method == "GET" or same_page):
        key_id = read_session(control.truths.pepper, session)
        found = control.truths.people.living_key(key_id, now()) if key_id else None
        if found is None:
            raise BadKey("The session has ended.", hint="Sign in again.")
        return found
    raise MissingKey("This call carries no key.", hint="Send: Authorization: Bearer cb_…")


def check_own(
    plane: ControlPlane, who: Actor | Key, action: str, kind: str, named: str, *, new: bool = False
) -> None:
    """A NotFound unless the policy lets this caller do it to every object, or to this one.

    What belongs to another department and what does not exist are answered alike, word for word.
    `new`: the object may not be there yet.
    """
    if policy.reaches_all(who, action):
        return
    owner = plane.truths.owners.of(kind, named)
    if owner == EVERYBODY or policy.reaches(who, action, owner) or (new and not owner):
        return
    error = AlgorithmNotFound if kind == "algorithm" else RowNotFound
    raise error(
        f"{who.department} has no {kind} {named[:63]!r}.",
        hint=NOT_YOURS,
    )


def seen_conversions(
    plane: ControlPlane, who: Actor | Key, found: list[Conversion]
) -> list[Conversion]:
    """Of a list those that this caller may look at."""
    owners = plane.truths.history.algorithms()
    return [
        one for one in found
        if policy.reaches(who, "conversion.read", owners.get(one.algorithm, ("",))[0])
    ]  # fmt: skip


def seen_evaluations(
    plane: ControlPlane, who: Actor | Key, found: list[Evaluation]
) -> list[Evaluation]:
    """The same; on its scenario's own data an evaluation is everybody's to see."""
    owners = plane.truths.history.algorithms()
    return [
        one for one in found
        if not one.data or policy.reaches(who, "evaluation.read", owners[one.algorithm][0])
    ]  # fmt: skip


class Permission:
    """A route's word for what it does: lets a caller through who may, with the object it names."""

    def __init__(self, action: str, of: str, *, new: bool, whole: bool) -> None:
        self.action = action
        self.of = of
        self.new = new
        self._whole = whole

    def __call__(self, request: Request) -> Key | Actor | None:
        """The dependency itself: NotSignedIn, NotAllowed or NotFound end the call here."""
        if policy.POLICY[self.action].anonymous:
            return None
        request.state.action = self.action
        key = key_of(request)
        policy.check(key, self.action)
        if self.of:
            named = str(request.path_params[NAMED[self.of]])
            check_own(plane(request), key, self.action, self.of, named, new=self.new)
        return key if self._whole else Actor.of(key)


def may(action: str, of: str = "", *, new: bool = False) -> Any:
    """What a route writes into its signature to have its caller checked, and given as an Actor.

    `of`: the kind of object in the path, which must be the caller's where the rule says `own`;
    `new`: it may not be there yet.
    """
    return Depends(Permission(action, of, new=new, whole=False))


def may_key(action: str, of: str = "") -> Any:
    """The same for a route that needs the whole key."""
    return Depends(Permission(action, of, new=False, whole=True))
