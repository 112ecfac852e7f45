"""A department asks, the owner answers; what must stop stops; four eyes are two persons."""

from datetime import timedelta

import pytest

from citybrain.core.errors import Conflict, InvalidInput, NotAllowed, RowNotFound
from citybrain.core.schemas import Actor, NewDepartment, NewKey
from citybrain.core.schemas.grants import (
    NewDeidentification,
    NewForbidden,
    NewGrantRequest,
    NewSuspension,
)
from citybrain.storage.moments import now
from citybrain.storage.records.controls import Controls
from citybrain.storage.records.grants import GrantRequests
from citybrain.storage.records.notices import Notices
from citybrain.storage.records.people import People

ASKER = Actor(key="k1", department="tourism", role="department")
OWNER = Actor(key="k2", department="traffic", role="developer", user="li")
SAME = Actor(key="k3", department="traffic", role="developer", user="li")


@pytest.fixture
def city(database):
    people = People(database)
    for name in ("tourism", "traffic"):
        people.add_department(NewDepartment(name=name), OWNER)
    return database


def request(**more):
    said = {"department": "tourism", "algorithm": "flow", "reason": "crowds at the lake",
            "scenario": "evening-peak", "basis": "city order 12"}  # fmt: skip
    return NewGrantRequest(**(said | more))


def test_a_yes_is_a_grant_with_all_that_was_asked(city):
    asked = GrantRequests(city).ask(request(), ASKER)
    assert asked.state == "waiting"
    assert timedelta(days=364) < asked.until - now() < timedelta(days=366)
    done = GrantRequests(city).approve(asked.id, "welcome", OWNER, alone=False)
    grant = next(g for g in People(city).grants() if g.id == done.grant_id)
    assert (grant.scenario, grant.basis, grant.until) == (
        "evening-peak",
        "city order 12",
        asked.until,
    )
    told = Notices(city).find("tourism")
    assert [(n.kind, n.detail["answer"]) for n in told] == [("grant.approved", "welcome")]
    assert Notices(city).read(told[0].id, "tourism").read_at
    with pytest.raises(RowNotFound):
        Notices(city).read(told[0].id, "traffic")


def test_one_request_waits_at_a_time_and_is_decided_once(city):
    requests = GrantRequests(city)
    asked = requests.ask(request(), ASKER)
    with pytest.raises(Conflict, match="already"):
        requests.ask(request(), ASKER)
    with pytest.raises(InvalidInput, match="why"):
        requests.refuse(asked.id, "", OWNER)
    requests.refuse(asked.id, "use the aggregates", OWNER)
    with pytest.raises(Conflict, match="refused already"):
        requests.approve(asked.id, "", OWNER, alone=False)
    assert not People(city).grants()
    again = requests.ask(request(), ASKER)
    assert requests.withdraw(again.id, ASKER).state == "withdrawn"


def test_four_eyes_are_two_persons_and_not_two_keys(city):
    asked = GrantRequests(city).ask(request(department="traffic"), OWNER)
    with pytest.raises(NotAllowed, match="four eyes"):
        GrantRequests(city).approve(asked.id, "", SAME, alone=False)
    assert GrantRequests(city).approve(asked.id, "", ASKER, alone=False).state == "approved"


@pytest.mark.parametrize("days", [-1, 4 * 366])
def test_a_grant_ends_within_three_years(city, days):
    with pytest.raises(InvalidInput):
        GrantRequests(city).ask(request(until=now() + timedelta(days=days)), ASKER)


def test_who_sees_which_requests(city):
    requests = GrantRequests(city)
    one = requests.ask(request(), ASKER)
    assert [r.id for r in requests.find(department="tourism")] == [one.id]
    assert [r.id for r in requests.find(department="traffic", algorithms=["flow"])] == [one.id]
    assert requests.find(department="traffic", algorithms=["other"]) == []


def test_a_grant_that_ends_soon_is_told_once(city):
    asked = GrantRequests(city).ask(request(until=now() + timedelta(days=3)), ASKER)
    GrantRequests(city).approve(asked.id, "", OWNER, alone=False)
    assert [Notices(city).grants_that_end() for _ in range(2)] == [1, 0]
    assert Notices(city).find("tourism")[0].kind == "grant.ends"


def test_something_is_suspended_once_until_it_is_lifted(city):
    controls = Controls(city)
    before = city.revision()
    found = controls.suspend(NewSuspension(kind="algorithm", target="flow", reason="wrong"), OWNER)
    assert city.revision() > before
    with pytest.raises(Conflict):
        controls.suspend(NewSuspension(kind="algorithm", target="flow", reason="wrong"), OWNER)
    with pytest.raises(RowNotFound):
        controls.suspend(NewSuspension(kind="key", target="nobody", reason="lost"), OWNER)
    controls.lift(found.id, OWNER)
    assert controls.suspensions() == []
    assert controls.suspensions(all_of_them=True)[0].lifted_by == "li"
    with pytest.raises(RowNotFound):
        controls.lift(found.id, OWNER)


def test_levels_are_lowered_by_two_persons(city):
    controls, method = Controls(city), "faces are blurred before anything is counted"
    asked = controls.ask_to_lower(
        NewDeidentification(target="flow", level="internal", method=method), OWNER
    )
    with pytest.raises(NotAllowed):
        controls.lower(asked.id, SAME, approve=True)
    assert controls.lowered() == {}
    controls.lower(asked.id, ASKER, approve=True)
    assert controls.lowered() == {("algorithm", "flow"): "internal"}
    controls.lower(asked.id, ASKER, approve=False)
    assert controls.lowered() == {}


def test_pins_and_the_negative_list(city):
    controls = Controls(city)
    controls.pin("tourism", "flow", 3, ASKER)
    controls.pin("tourism", "flow", 4, ASKER)
    assert [p.version for p in controls.pins("tourism")] == [4]
    controls.unpin("tourism", "flow", ASKER)
    with pytest.raises(RowNotFound):
        controls.unpin("tourism", "flow", ASKER)
    line = controls.forbid(NewForbidden(category="religion", reason="PIPL art. 28"), OWNER)
    assert [f.category for f in controls.forbidden()] == ["religion"]
    controls.allow(line.id, OWNER)
    assert controls.forbidden() == []


def test_a_key_keeps_what_it_was_issued_with(city):
    new = NewKey(
        department="tourism", level="sensitive", scopes=["call:flow"], networks=["10.0.0.0/8"]
    )
    kept = People(city).add_key(new, "kid", "digest", OWNER)
    assert (kept.level, kept.scopes, kept.networks) == ("sensitive", ["call:flow"], ["10.0.0.0/8"])
