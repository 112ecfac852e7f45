"""Asking for algorithms and answering, grants and what stops them, and the first call under one."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from fastapi import Request, Response

from citybrain.core.errors import RowNotFound
from citybrain.core.schemas import Actor, Algorithm, Grant, Key
from citybrain.core.schemas.grants import GrantRequest, Suspension
from citybrain.models.package import Manifest
from citybrain.models.task import open_task
from citybrain.platform.api.access import Plane, may_key
from citybrain.platform.api.algorithms import get_algorithm
from citybrain.platform.api.grants import list_requests, seen_suspensions
from citybrain.platform.console.door import address, pages, scenario_names, show
from citybrain.platform.console.snippets import Example, curl, python_client
from citybrain.platform.policy import CALL, CALLERS, allows, covers, reaches, reaches_all, whose
from citybrain.platform.wiring import ControlPlane
from citybrain.storage.moments import now

router = pages()
Visitor = Annotated[Key, may_key("grant.read")]
OLD = 20
"""Grants that are over and requests that were decided: so many are shown, the newest."""


class Asked(NamedTuple):
    """A request, and what the visitor may do about it."""

    request: GrantRequest
    may_answer: bool
    two_needed: bool
    """Only another person may say yes: the visitor asked."""
    may_withdraw: bool


class Given(NamedTuple):
    """A grant, what stops it, and what the visitor may do about it."""

    grant: Grant
    stop: Suspension | None
    may_stop: bool


@router.get("/access")
def access(request: Request, plane: Plane, key: Visitor, algorithm: str = "") -> Response:
    """A form to ask with, requests that wait, grants, and what is stopped."""
    actor = Actor.of(key)
    algorithms = {one.name: one for one in plane.catalogue.algorithms()}
    asked = [_asked(plane, key, one, algorithms) for one in list_requests(plane, actor)]
    living, over = _grants(plane, key, algorithms)
    return show(
        request, "access.html", key=key, algorithms=algorithms, chosen=algorithm[:63],
        scenarios=scenario_names(request), now=now(), sees_all=reaches_all(key, "grant.read"),
        titles={one.name: one for one in plane.truths.people.departments()},
        waiting=[one for one in asked if one.request.state == "waiting"],
        decided=[one for one in asked if one.request.state != "waiting"][:OLD],
        living=living, over=over[:OLD], stops=_stops(plane, key, algorithms),
        stoppable=[
            one for one in algorithms.values() if _may(key, "suspension.set", one.owner)
        ],
    )  # fmt: skip


@router.get("/access/grants/{grant_id}")
def first_call(
    request: Request, grant_id: str, plane: Plane,
    key: Annotated[Key, may_key("grant.read", "grant")],
) -> Response:  # fmt: skip
    """What a grant allows, which keys fit it, and the call to copy."""
    grants = plane.truths.people.grants(whose(key, "grant.read"))
    grant = next((one for one in grants if one.id == grant_id and one.kind == "algorithm"), None)
    if grant is None:
        raise RowNotFound(f"There is no grant of an algorithm {grant_id[:63]!r}.")
    page = get_algorithm(grant.algorithm, plane, Actor.of(key))
    stops = {one.target: one for one in plane.controls.suspensions()}
    snippets = []
    if page.manifest:
        media = open_task(Manifest.model_validate(page.manifest)).media
        example = Example(
            page.algorithm.name, media, page.example, page.signature, address(request),
            grant.purpose, 'os.environ["CITYBRAIN_KEY"]',
        )  # fmt: skip
        snippets = [("curl", curl(example)), ("citybrain", python_client(example))]
    return show(
        request, "first_call.html", key=key, grant=grant, algorithm=page.algorithm,
        stop=stops.get(grant.id) or stops.get(grant.algorithm), snippets=snippets, now=now(),
        keys=_keys(plane, key, grant), titles={d.name: d for d in plane.truths.people.departments()},
        may_rotate=_may(key, "key.rotate", grant.department),
    )  # fmt: skip


def _may(key: Key, action: str, owner: str) -> bool:
    return allows(key, action) and reaches(key, action, owner)


def _asked(
    plane: ControlPlane, key: Key, one: GrantRequest, algorithms: dict[str, Algorithm]
) -> Asked:
    waits = one.state == "waiting"
    found = algorithms.get(one.algorithm) if one.kind == "algorithm" else None
    alone = found.approval == "self" if found else plane.truths.settings.profile == "embedded"
    own = one.asked_by == Actor.of(key).person
    return Asked(
        one,
        may_answer=waits and _may(key, "grant.answer", found.owner if found else ""),
        two_needed=own and not alone,
        may_withdraw=waits and _may(key, "grant.ask", one.department),
    )


def _grants(
    plane: ControlPlane, key: Key, algorithms: dict[str, Algorithm]
) -> tuple[list[Given], list[Given]]:
    """Those in force, and those that are over: of the department, and on its algorithms."""
    seen = whose(key, "grant.read")
    stops = {one.target: one for one in plane.controls.suspensions() if one.kind == "grant"}
    living: list[Given] = []
    over: list[Given] = []
    for grant in reversed(plane.truths.people.grants()):
        owner = algorithms[grant.algorithm].owner if grant.algorithm in algorithms else ""
        if seen in ("", grant.department) or _may(key, "caller.read", owner):
            ended = grant.revoked_at or (grant.until and grant.until <= now())
            may_stop = not ended and _may(key, "suspension.set", owner)
            (over if ended else living).append(Given(grant, stops.get(grant.id), may_stop))
    return living, over


def _stops(
    plane: ControlPlane, key: Key, algorithms: dict[str, Algorithm]
) -> list[tuple[Suspension, bool]]:
    """What is stopped now besides grants, and whether the visitor may let it go on."""
    found = []
    for one in seen_suspensions(plane, key):
        if one.kind != "grant":
            is_algorithm = one.kind == "algorithm"
            owner = algorithms[one.target].owner if one.target in algorithms else ""
            whole = reaches_all(key, "suspension.set")
            may_lift = whole or (is_algorithm and owner == key.department)
            found.append((one, may_lift and _may(key, "suspension.set", owner)))
    return found


def _keys(plane: ControlPlane, key: Key, grant: Grant) -> list[Key]:
    """The department's keys that can make this call."""
    if not _may(key, "key.read", grant.department):
        return []
    moment = now()
    return [
        one for one in plane.truths.people.keys(grant.department)
        if one.revoked_at is None and (one.expires_at is None or one.expires_at > moment)
        and one.role in CALLERS and grant.purpose in one.purposes and not one.user
        and covers(one.scopes, CALL, grant.algorithm)
    ]  # fmt: skip
