"""Whether a key may call an algorithm: worked out once for each key, algorithm and purpose, then looked up.

A call is let through for a purpose that its key serves and that a living grant of its department
names, within the key's scopes, while nothing of it is suspended. What the answer may not be more sensitive than,
and which limits the call counts against, comes with it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from citybrain.core.errors import (
    LevelTooHigh,
    NotAllowed,
    NotGranted,
    OutOfScope,
    PurposeMissing,
    Suspended,
)
from citybrain.core.levels import Level
from citybrain.core.schemas import Grant, Key
from citybrain.core.schemas.people import OPERATION, PLATFORM
from citybrain.core.schemas.quotas import Quota
from citybrain.serving.gateway.routes import CALL
from citybrain.serving.gateway.snapshot import Route, Snapshot
from citybrain.serving.metering.book import Meter

May = Callable[[Key, str, str], bool]
"""The platform's policy: whether a key may take an action, here about an algorithm."""
ALWAYS = ("requests", "rows", "cpu-seconds")
"""Units that every algorithm has."""
MOST = 20_000
RANKS = {level: level.rank for level in Level}


class Permit(NamedTuple):
    """A call that may be made, until its grant or key ends."""

    purpose: str
    scenario: str
    grant: str
    rank: int
    """The highest level of an answer, as `Level.rank`."""
    until: float
    """Seconds since 1970."""
    meters: tuple[Meter, ...] = ()
    plain: bool = True
    """Whether all limits are counted in whole requests, which are known beforehand."""

    def check_level(self, route: Route, level: Level) -> None:
        """LevelTooHigh where a deployment answers with more than may be seen."""
        if RANKS[level] > self.rank:
            raise LevelTooHigh(
                f"{route.algorithm} answers with {level} data, and this key may see "
                f"{list(Level)[self.rank]} data at most.",
                hint="Ask an admin for a key with a higher level.",
            )


def permit(snapshot: Snapshot, may: May, key: Key, algorithm: str, stated: str) -> Permit:
    """What such a call is allowed; Refused with the reason otherwise."""
    found = snapshot.permits.get((key.id, algorithm, stated))
    if found is not None and found.until > time.time():
        return found
    _check_may(may, key, algorithm)
    found = _work_out(snapshot, key, algorithm, stated)
    if len(snapshot.permits) < MOST:  # names that callers make up are refused, and not kept
        snapshot.permits[key.id, algorithm, stated] = found
    return found


def _check_may(may: May, key: Key, algorithm: str) -> None:
    """OutOfScope where the key's role may call and its scopes do not cover this; else NotAllowed."""
    if may(key, CALL, algorithm):
        return
    if may(key.model_copy(update={"scopes": []}), CALL, algorithm):
        raise OutOfScope(
            f"This key's scopes do not name call:{algorithm[:63]}.",
            hint=f"They are: {', '.join(key.scopes)[:200]}.",
        )
    raise NotAllowed(
        f"The role {key.role} may not call an algorithm.", hint="An admin issues another key."
    )


def _work_out(snapshot: Snapshot, key: Key, algorithm: str, stated: str) -> Permit:
    purpose = stated or (key.purposes[0] if len(key.purposes) == 1 else "")
    if not purpose:
        raise PurposeMissing(
            "This key serves several purposes, and the call names none.",
            hint=f"Send X-Purpose with one of: {', '.join(key.purposes)}.",
        )
    grant = _grant(snapshot, key, algorithm, purpose)
    stopped = [("department", key.department), ("key", key.id), ("algorithm", algorithm)]
    if grant is not None:
        stopped.append(("grant", grant.id))
    for what in stopped:
        if (reason := snapshot.suspended.get(what)) is not None:
            raise Suspended(
                f"{what[0]} {what[1]} is suspended: {reason}",
                hint="The algorithm's owner or an admin lifts that.",
            )
    ends = [
        moment.timestamp() for moment in (key.expires_at, grant.until if grant else None) if moment
    ]
    return with_meters(
        snapshot, key.department, algorithm,
        Permit(
            purpose, grant.scenario if grant else "", grant.id if grant else "",
            Level(key.level).rank, min(ends, default=math.inf),
        ),
    )  # fmt: skip


def with_meters(snapshot: Snapshot, department: str, algorithm: str, found: Permit) -> Permit:
    """A permit with the limits that such a call counts against."""
    meters = tuple(_meters(snapshot, department, algorithm))
    plain = all(meter.unit == "requests" for meter in meters)
    return found._replace(meters=meters, plain=plain)


def _grant(snapshot: Snapshot, key: Key, algorithm: str, purpose: str) -> Grant | None:
    """The grant that a call rests on; none: the platform's own, which needs none."""
    if purpose in key.purposes:
        if key.department == PLATFORM and key.role == "admin" and purpose == OPERATION:
            return None
        if (grant := living(snapshot, key.department, algorithm, purpose)) is not None:
            return grant
    raise NotGranted(
        f"{key.department} has no grant for {algorithm[:63]} and the purpose {purpose[:63]!r}.",
        hint="Ask the algorithm's owner or an admin for a grant.",
    )


def living(snapshot: Snapshot, department: str, algorithm: str, purpose: str) -> Grant | None:
    """A grant that has not ended."""
    grant = snapshot.grants.get((department, algorithm), {}).get(purpose)
    over = grant is not None and grant.until is not None and grant.until.timestamp() <= time.time()
    return None if over else grant


def _meters(snapshot: Snapshot, department: str, algorithm: str) -> Iterable[Meter]:
    own = {route.task.unit for route in snapshot.routes.get(algorithm, ())}
    for quota in snapshot.quotas.get(department, ()):
        if quota.algorithm in ("", algorithm) and (quota.unit in ALWAYS or quota.unit in own):
            yield meter_of(quota)


def meter_of(quota: Quota) -> Meter:
    """A limit as the book counts it."""
    name = f"{quota.unit}-{quota.per}" if quota.per != "once" else "at-once"
    return Meter(quota.slot, quota.unit, quota.per, name, int(quota.id, 16))


def may_compose(snapshot: Snapshot, owner: str, algorithm: str, purpose: str) -> None:
    """NotGranted unless an owner of pipelines may let others call this algorithm."""
    running = snapshot.routes.get(algorithm, ())
    if owner == PLATFORM or any(route.manifest.owner == owner for route in running):
        return
    if living(snapshot, owner, algorithm, purpose) is not None:
        return
    raise NotGranted(
        f"{owner}, which owns this pipeline, has no grant for {algorithm} and the purpose "
        f"{purpose[:63]!r}.",
        hint=f"{owner} asks the owner of {algorithm} or an admin for a grant.",
    )
