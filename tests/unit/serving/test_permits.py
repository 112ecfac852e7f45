"""Who may call what: purposes, levels, scopes, suspensions, ends (T4, T5)."""

import itertools
import os
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

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
from citybrain.core.schemas.quotas import Quota
from citybrain.platform.policy import allows
from citybrain.serving.gateway import permits
from citybrain.serving.gateway.snapshot import Snapshot, levels_of

NOW = datetime.now(UTC)
FULL = "TRUST_FULL" in os.environ


def key(**more):
    said = {"id": "k", "department": "health", "role": "department", "purposes": ["operation"],
            "note": "", "created_at": NOW, "expires_at": None, "revoked_at": None}  # fmt: skip
    return Key(**(said | more))


def grant(purpose="operation", **more):
    said = {"id": "g", "department": "health", "algorithm": "flow", "purpose": purpose,
            "granted_by": "a", "created_at": NOW, "until": None, "revoked_at": None,
            "scenario": "evening-peak"}  # fmt: skip
    return Grant(**(said | more))


def permit(seen, by, algorithm, stated):
    return permits.permit(seen, allows, by, algorithm, stated)


def snapshot(*grants, **more):
    held = {("health", "flow"): {one.purpose: one for one in grants}}
    return Snapshot(grants=held, **more)


def test_a_permit_says_purpose_scenario_and_grant():
    found = permit(snapshot(grant()), key(), "flow", "")
    assert found[:3] == ("operation", "evening-peak", "g")
    assert found.plain
    assert found.meters == ()


@pytest.mark.parametrize("stated", ["research", "x" * 300, "operation\n", "Operation", "'; --"])
def test_a_purpose_outside_key_and_grant_is_refused(stated):
    with pytest.raises(NotGranted):
        permit(snapshot(grant()), key(), "flow", stated)


def test_a_purpose_needs_the_key_and_the_grant():
    both = key(purposes=["operation", "research"])
    with pytest.raises(PurposeMissing):
        permit(snapshot(grant()), both, "flow", "")
    with pytest.raises(NotGranted):
        permit(snapshot(grant()), both, "flow", "research")
    with pytest.raises(NotGranted):
        permit(snapshot(grant("research")), key(), "flow", "research")
    assert permit(snapshot(grant("research")), both, "flow", "research").purpose == "research"


def test_a_grant_ends_by_itself_also_for_what_was_worked_out():
    soon = snapshot(grant(until=NOW + timedelta(seconds=0.2) + (datetime.now(UTC) - NOW)))
    assert permit(soon, key(), "flow", "")
    time.sleep(0.25)
    with pytest.raises(NotGranted):
        permit(soon, key(), "flow", "")


@pytest.mark.parametrize(
    "what", [("department", "health"), ("key", "k"), ("algorithm", "flow"), ("grant", "g")]
)
def test_what_is_suspended_is_refused_with_the_reason(what):
    with pytest.raises(Suspended, match="camera stolen"):
        permit(snapshot(grant(), suspended={what: "camera stolen"}), key(), "flow", "")


@pytest.mark.parametrize(("scopes", "ok"), [([], True), (["call"], True), (["call:flow"], True),
                         (["call:fl*"], True), (["call:other"], False), (["usage.read"], False)])  # fmt: skip
def test_scopes_bound_what_a_key_may_call(scopes, ok):
    if ok:
        assert permit(snapshot(grant()), key(scopes=scopes), "flow", "")
    else:
        with pytest.raises(OutOfScope):
            permit(snapshot(grant()), key(scopes=scopes), "flow", "")


def test_an_auditor_calls_nothing():
    with pytest.raises(NotAllowed, match="auditor may not call"):
        permit(snapshot(grant()), key(role="auditor"), "flow", "")


def test_names_that_are_made_up_are_not_remembered():
    seen = snapshot(grant())
    for number in range(500):
        with pytest.raises(NotGranted):
            permit(seen, key(), f"name-{number}", "")
    assert seen.permits == {}


def route(level, *, name="flow", steps=()):
    refs = [SimpleNamespace(algorithm=step) for step in steps]
    plan = SimpleNamespace(refs=lambda: refs) if steps else None
    manifest = SimpleNamespace(level=Level(level))

    class Route(SimpleNamespace):
        __hash__ = object.__hash__

    return Route(algorithm=name, manifest=manifest, plan=plan, task=SimpleNamespace(unit="rows"))


def test_ten_thousand_triples_obey_the_lattice():
    """Key clearance, card level, step level (and a lowering): answered iff the key sees the highest."""
    levels = list(Level)
    wrong = total = 0
    cases = list(
        itertools.product(levels, levels, levels, [None, *levels], range(40 if FULL else 2))
    )
    for sees, card, step, lowered, _ in cases:
        inner, outer = route(step, name="inner"), route(card, steps=["inner"])
        routes = {"flow": [outer], "inner": [inner]}
        less = {("algorithm", "flow"): lowered} if lowered else {}
        found = levels_of(routes, less)
        highest = max(card, step)
        expected = highest if lowered is None else min(lowered, card)
        wrong += found[outer] != expected or found[inner] != step
        allowed = permit(snapshot(grant()), key(level=sees), "flow", "")
        try:
            allowed.check_level(outer, found[outer])
            passed = True
        except LevelTooHigh:
            passed = False
        wrong += passed != (sees >= expected)
        total += 1
    print(f"{total} triples, {wrong} violations")
    assert not wrong


def test_a_call_meets_the_limits_of_its_units_and_algorithm():
    def quota(number, unit, algorithm=""):
        return Quota(id=f"{number:012x}", slot=number, department="health", unit=unit, amount=5,
                     algorithm=algorithm, set_by="a", set_at=NOW)  # fmt: skip

    several = [
        quota(1, "requests"),
        quota(2, "images"),
        quota(3, "rows", "flow"),
        quota(4, "rows", "b"),
    ]
    city = snapshot(grant(), quotas={"health": several}, routes={"flow": [route("internal")]})
    found = permit(city, key(), "flow", "")
    assert [meter.slot for meter in found.meters] == [1, 3]
    assert not found.plain
