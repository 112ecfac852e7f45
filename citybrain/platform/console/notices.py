"""Who is affected when a champion changes: what the algorithm page and the overview say of it."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta

from citybrain.core.schemas import Key, Promotion
from citybrain.platform.console.door import sees_all
from citybrain.platform.wiring import ControlPlane

RECENT = timedelta(days=7)


def sees_callers(key: Key, owner: str) -> bool:
    """Whether this key may know who else uses an algorithm."""
    return sees_all(key) or (key.role == "developer" and key.department == owner)


def affected(plane: ControlPlane, key: Key) -> dict[str, list[str]]:
    """The departments that hold a living grant, by algorithm; as far as this key may know.

    Admins, auditors and the owner's developers see all of them, others themselves.
    """
    owners = {name: owner for name, (owner, _) in plane.truths.history.algorithms().items()}
    moment = datetime.now(plane.truths.settings.zone)
    found: dict[str, set[str]] = defaultdict(set)
    for grant in plane.truths.people.grants():
        if grant.revoked_at is None and (grant.until is None or grant.until > moment):
            all_of_them = sees_callers(key, owners.get(grant.algorithm, ""))
            if all_of_them or key.department == grant.department:
                found[grant.algorithm].add(grant.department)
    return {algorithm: sorted(departments) for algorithm, departments in found.items()}


def champion_changes(plane: ControlPlane, algorithm: str = "") -> list[Promotion]:
    """Promotions of a champion that wait, or were done in the last days; newest first."""
    since = datetime.now(plane.truths.settings.zone) - RECENT
    return [
        promotion
        for promotion in plane.truths.history.promotions(algorithm)
        if promotion.alias == "champion"
        and (
            promotion.state == "waiting"
            or (promotion.state == "done" and (promotion.decided_at or promotion.at) > since)
        )
    ]
