"""Requests for grants, suspensions, pins, levels that are lowered, the negative list, notices."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from citybrain.core.errors import InvalidInput, NotAllowed, RowNotFound
from citybrain.core.names import Ref
from citybrain.core.schemas import Actor, Key
from citybrain.core.schemas.grants import (
    Decision,
    Deidentification,
    Forbidden,
    GrantRequest,
    NewDeidentification,
    NewForbidden,
    NewGrantRequest,
    NewPin,
    NewSuspension,
    Notice,
    Pin,
    Suspension,
)
from citybrain.platform.api.access import Plane, check_own, may
from citybrain.platform.policy import reaches, reaches_all, whose
from citybrain.platform.wiring import ControlPlane

router = APIRouter(tags=["grants"])


@router.get("/grant-requests")
def list_requests(
    plane: Plane, actor: Annotated[Actor, may("grant.read")], state: str = ""
) -> list[GrantRequest]:
    """Who oversees sees all; others those of their department and those about its algorithms."""
    if reaches_all(actor, "grant.read"):
        return plane.requests.find(state=state)
    owned = [a.name for a in plane.catalogue.algorithms() if a.owner == actor.department]
    return plane.requests.find(department=actor.department, algorithms=owned, state=state)


@router.post("/grant-requests", status_code=201)
def ask(
    new: NewGrantRequest, plane: Plane, actor: Annotated[Actor, may("grant.ask")]
) -> GrantRequest:
    """Ask for a grant, for one's own department; the owner of the algorithm answers."""
    if not reaches(actor, "grant.ask", new.department):
        raise NotAllowed(f"{actor.department} asks for itself, not for {new.department}.")
    if new.kind == "algorithm":
        if new.columns:
            raise InvalidInput("Only feature views have columns.")
        plane.cards.check_purpose(new.algorithm, new.purpose)
    return plane.requests.ask(new, actor)


@router.post("/grant-requests/{request_id}/approve")
def approve(
    request_id: str,
    said: Decision,
    plane: Plane,
    actor: Annotated[Actor, may("grant.answer", "request")],
) -> GrantRequest:
    """The owner says yes; where the rule is four eyes, as another person than who asked."""
    asked = plane.requests.get(request_id)
    alone = plane.truths.settings.profile == "embedded"
    if asked.kind == "algorithm":
        alone = plane.catalogue.algorithm(asked.algorithm).approval == "self"
        plane.cards.check_purpose(asked.algorithm, asked.purpose)
    return plane.requests.approve(request_id, said.answer, actor, alone=alone)


@router.post("/grant-requests/{request_id}/refuse")
def refuse(
    request_id: str,
    said: Decision,
    plane: Plane,
    actor: Annotated[Actor, may("grant.answer", "request")],
) -> GrantRequest:
    """The owner says no, and why."""
    return plane.requests.refuse(request_id, said.answer, actor)


@router.post("/grant-requests/{request_id}/withdraw")
def withdraw(
    request_id: str, plane: Plane, actor: Annotated[Actor, may("grant.ask", "asking")]
) -> GrantRequest:
    """The department takes its request back."""
    return plane.requests.withdraw(request_id, actor)


@router.get("/suspensions")
def list_suspensions(
    plane: Plane, actor: Annotated[Actor, may("suspension.read")], *, ended: bool = False
) -> list[Suspension]:
    """What is stopped now, and with `ended` what was; keys, departments and grants to whom they concern."""
    return seen_suspensions(plane, actor, ended=ended)


def seen_suspensions(
    plane: ControlPlane, who: Actor | Key, *, ended: bool = False
) -> list[Suspension]:
    """Algorithms are everybody's to know, the rest is its own people's, the owner's and overseers'."""
    found, mine = plane.controls.suspensions(all_of_them=ended), whose(who, "grant.read")
    if not mine:
        return found
    own = {mine} | {key.id for key in plane.truths.people.keys(mine)}
    own |= {
        grant.id for grant in plane.truths.people.grants()
        if mine in (grant.department, plane.truths.owners.of("algorithm", grant.algorithm))
    }  # fmt: skip
    return [one for one in found if one.kind == "algorithm" or one.target in own]


@router.post("/suspensions", status_code=201)
def suspend(
    new: NewSuspension, plane: Plane, actor: Annotated[Actor, may("suspension.set")]
) -> Suspension:
    """Stop an algorithm, a grant, a key or a department at once, at every door."""
    _may_stop(plane, new.kind, new.target, actor)
    return plane.controls.suspend(new, actor)


@router.delete("/suspensions/{suspension_id}")
def lift(
    suspension_id: str, plane: Plane, actor: Annotated[Actor, may("suspension.set")]
) -> Suspension:
    """Let it go on."""
    for found in plane.controls.suspensions():
        if found.id == suspension_id:
            _may_stop(plane, found.kind, found.target, actor)
    return plane.controls.lift(suspension_id, actor)


def _may_stop(plane: ControlPlane, kind: str, target: str, actor: Actor) -> None:
    """An admin stops anything; an owner its algorithms and the grants on them."""
    if kind == "grant":
        grant = next((g for g in plane.truths.people.grants() if g.id == target), None)
        if grant is None:
            raise RowNotFound(f"There is no grant {target}.")
        target, kind = grant.algorithm, "algorithm"
    if kind == "algorithm":
        check_own(plane, actor, "suspension.set", "algorithm", target)
        plane.catalogue.algorithm(target)
    elif not reaches_all(actor, "suspension.set"):
        raise NotAllowed(f"Only an admin suspends a {kind}.")


@router.get("/pins")
def list_pins(plane: Plane, actor: Annotated[Actor, may("pin.read")]) -> list[Pin]:
    """Versions that departments stay with: an admin sees all, others their own."""
    return plane.controls.pins(whose(actor, "pin.read"))


@router.put("/algorithms/{name}/pin")
def pin(name: str, new: NewPin, plane: Plane, actor: Annotated[Actor, may("pin.set")]) -> Pin:
    """Stay with a version: calls of this department that name none go to it, while it runs."""
    plane.catalogue.version(Ref(name, str(new.version)))
    return plane.controls.pin(actor.department, name, new.version, actor)


@router.delete("/algorithms/{name}/pin")
def unpin(name: str, plane: Plane, actor: Annotated[Actor, may("pin.set")]) -> dict[str, str]:
    """Follow the champion again."""
    plane.controls.unpin(actor.department, name, actor)
    return {"state": "unpinned"}


@router.get("/deidentifications")
def list_lowered(
    plane: Plane, actor: Annotated[Actor, may("level.read")]
) -> list[Deidentification]:
    """Approved and waiting steps that make answers less sensitive."""
    return plane.controls.deidentifications()


@router.post("/deidentifications", status_code=201)
def ask_to_lower(
    new: NewDeidentification, plane: Plane, actor: Annotated[Actor, may("level.ask")]
) -> Deidentification:
    """Say how an algorithm's answers are made less sensitive than what goes in."""
    if new.kind == "algorithm":
        check_own(plane, actor, "level.ask", "algorithm", new.target)
        card = plane.cards.card(new.target, "")
        if new.level >= card.level:
            raise InvalidInput(f"{new.target} is {card.level} already: {new.level} is no lower.")
    return plane.controls.ask_to_lower(new, actor)


@router.post("/deidentifications/{entry_id}/approve")
def approve_lower(
    entry_id: str, plane: Plane, actor: Annotated[Actor, may("level.decide")]
) -> Deidentification:
    """An admin who did not ask for it looks at the method, and approves."""
    return plane.controls.lower(entry_id, actor, approve=True)


@router.delete("/deidentifications/{entry_id}")
def end_lower(
    entry_id: str, plane: Plane, actor: Annotated[Actor, may("level.decide")]
) -> Deidentification:
    """The answers are as sensitive as their inputs again."""
    return plane.controls.lower(entry_id, actor, approve=False)


@router.get("/forbidden")
def list_forbidden(plane: Plane, actor: Annotated[Actor, may("forbidden.read")]) -> list[Forbidden]:
    """The negative list: what is never collected, or never joined."""
    return plane.controls.forbidden()


@router.post("/forbidden", status_code=201)
def forbid(
    new: NewForbidden, plane: Plane, actor: Annotated[Actor, may("forbidden.set")]
) -> Forbidden:
    """Add a line; registrations that it forbids are refused from now on."""
    return plane.controls.forbid(new, actor)


@router.delete("/forbidden/{line_id}")
def allow(line_id: str, plane: Plane, actor: Annotated[Actor, may("forbidden.set")]) -> Forbidden:
    """Take a line away."""
    return plane.controls.allow(line_id, actor)


@router.get("/notices")
def list_notices(
    plane: Plane, actor: Annotated[Actor, may("notice.read")], *, unread: bool = False
) -> list[Notice]:
    """What this department should know, newest first."""
    return plane.notices.find(actor.department, unread=unread)


@router.post("/notices/{notice_id}/read")
def read(notice_id: int, plane: Plane, actor: Annotated[Actor, may("notice.read")]) -> Notice:
    """Somebody of the department has read it."""
    return plane.notices.read(notice_id, actor.department)


@router.post("/notices/read")
def read_all(plane: Plane, actor: Annotated[Actor, may("notice.read")]) -> dict[str, int]:
    """The department has read all of them."""
    return {"read": plane.notices.read_all(actor.department)}
