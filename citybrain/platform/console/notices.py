"""What changed lately and whom it affects, and whose files nobody vouches for."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta

from citybrain.core.schemas import AuditEntry, Canary, Key, Promotion
from citybrain.platform.policy import reaches
from citybrain.platform.wiring import ControlPlane
from citybrain.storage.records.audit import refusals

RECENT = timedelta(days=7)


def affected(plane: ControlPlane, key: Key) -> dict[str, list[str]]:
    """The departments that hold a living grant, by algorithm; as far as this key may know.

    Admins, auditors and the owner's developers see all of them, others themselves.
    """
    owners = {name: owner for name, (owner, _) in plane.truths.history.algorithms().items()}
    moment = datetime.now(plane.truths.settings.zone)
    found: dict[str, set[str]] = defaultdict(set)
    for grant in plane.truths.people.grants():
        if grant.revoked_at is None and (grant.until is None or grant.until > moment):
            all_of_them = reaches(key, "caller.read", owners.get(grant.algorithm, ""))
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


def releases(plane: ControlPlane) -> list[Canary]:
    """Canaries that run or hold their share, or ended in the last days; newest first."""
    since = datetime.now(plane.truths.settings.zone) - RECENT
    return [
        one
        for one in plane.truths.traffics.canaries()
        if one.moved_at > since or one.state in ("running", "passed")
    ]


def unvouched(plane: ControlPlane, key: Key) -> list[AuditEntry]:
    """Versions that were refused in the last days because nobody vouches for their files.

    Until one is signed again, withdrawn, deleted, or runs again; as far as this key may know.
    """
    owners = {name: owner for name, (owner, _) in plane.truths.history.algorithms().items()}
    since = datetime.now(plane.truths.settings.zone) - RECENT
    runs = {
        f"{found.algorithm}@{found.version}"
        for found in plane.truths.deployments.all()
        if found.state == "running"
    }
    return [
        entry
        for entry in refusals(plane.truths.database, since)
        if entry.object not in runs
        and reaches(key, "caller.read", owners.get(entry.object.partition("@")[0], ""))
    ]
