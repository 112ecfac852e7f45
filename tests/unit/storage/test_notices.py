"""Who uses an algorithm is told before its champion changes, and of what ends or stops."""

from datetime import timedelta

import pytest
from sqlalchemy import text

from citybrain.core.schemas import Actor, NewDepartment, NewGrant, NewKey
from citybrain.core.schemas.grants import NewSuspension
from citybrain.core.schemas.traffic import NewCanary
from citybrain.storage.moments import now
from citybrain.storage.records.controls import Controls
from citybrain.storage.records.endings import Endings
from citybrain.storage.records.history import History
from citybrain.storage.records.notices import Notices
from citybrain.storage.records.people import People
from citybrain.storage.records.traffic import Traffics
from citybrain.storage.tables import UsageDayRow

OWNER = Actor(key="k1", department="traffic", role="developer", user="li")
OTHER = Actor(key="k2", department="traffic", role="developer", user="wang")


@pytest.fixture
def city(database):
    """`granted` holds a grant, `caller` called lately, `formerly` called long ago, `former` lost its grant."""
    people, history = People(database), History(database)
    for name in ("traffic", "granted", "caller", "formerly", "former"):
        people.add_department(NewDepartment(name=name), OWNER)
    for version in (1, 2, 3):
        history.note_version("flow", version, "traffic", "four-eyes", OWNER, f"d{version}")
    history.move("flow", "champion", 1, expected=0, reason="registered", actor=OWNER)
    people.add_grant(NewGrant(department="granted", algorithm="flow"), OWNER)
    people.revoke_grant(
        people.add_grant(NewGrant(department="former", algorithm="flow"), OWNER).id, OWNER
    )
    with database.write() as session:
        for name, back in (("caller", 3), ("formerly", 90)):
            session.add(
                UsageDayRow(day=f"{now() - timedelta(days=back):%Y-%m-%d}", department=name,
                            algorithm="flow", version=1, requests=1, failed=0, rows=1, micros=1,
                            unit="", amount=0.0, work_micros=0)
            )  # fmt: skip
        session.execute(text("DELETE FROM notices"))
    return database


def told(database):
    found = Notices(database).find()[::-1]
    return [(one.department, one.kind, one.detail) for one in found]


def test_who_uses_an_algorithm_is_told_when_a_change_is_asked_for_and_again_when_it_is_done(city):
    Controls(city).pin("caller", "flow", 1, OWNER)
    asked = History(city).ask("flow", "champion", 2, "", OWNER, expected=1)
    assert History(city).aliases("flow")["flow"] == {"champion": 1}, "told before it changes"
    detail = {"version": 2, "previous": 1, "promotion": asked.id}
    assert told(city) == [
        ("caller", "champion.asked", {**detail, "pinned": 1}), ("granted", "champion.asked", detail),
    ]  # fmt: skip
    History(city).approve(asked.id, OTHER, self_allowed=False)
    assert [found[:2] for found in told(city)[2:]] == [
        ("caller", "champion.changed"), ("granted", "champion.changed"),
    ]  # fmt: skip


def test_a_change_that_is_taken_back_and_a_rollback_are_told(city):
    history = History(city)
    history.withdraw(history.ask("flow", "champion", 2, "", OWNER).id, OWNER)
    history.move("flow", "champion", 3, expected=1, reason="promotion x", actor=OWNER)
    history.move("flow", "champion", 1, expected=3, reason="rollback from 3", actor=OWNER)
    kinds = [kind for department, kind, _ in told(city) if department == "granted"]
    assert kinds == ["champion.asked", "champion.stays", "champion.changed", "champion.back"]


def test_other_aliases_and_self_approved_promotions_are_not_told_beforehand(city):
    history = History(city)
    history.ask("flow", "challenger", 2, "", OWNER)
    history.move("flow", "challenger", 2, expected=0, reason="x", actor=OWNER)
    history.set_approval("flow", "self", OWNER)
    asked = history.ask("flow", "champion", 2, "", OWNER)
    assert told(city) == []
    history.approve(asked.id, OWNER, self_allowed=True)
    assert {kind for _, kind, _ in told(city)} == {"champion.changed"}


def test_an_end_and_a_stop_are_told_to_whose_calls_they_concern(city):
    Endings(city).retire("flow", 0, now() + timedelta(days=30), "flow-two", OWNER)
    Endings(city).undo("flow", 0, OWNER)
    key = People(city).add_key(NewKey(department="caller"), "kid", "digest", OWNER)
    grant = next(g for g in People(city).grants() if g.department == "granted")
    controls = Controls(city)
    for kind, target in (
        ("algorithm", "flow"), ("grant", grant.id), ("department", "former"), ("key", key.id),
    ):  # fmt: skip
        stop = controls.suspend(NewSuspension(kind=kind, target=target, reason="wrong"), OWNER)
        controls.lift(stop.id, OWNER)
    People(city).revoke_grant(grant.id, OWNER)
    found = told(city)
    both = ["algorithm.retires", "algorithm.stays", "suspension.set", "suspension.lift"]
    stop = ["suspension.set", "suspension.lift"]
    by = {
        name: [kind for who, kind, _ in found if who == name]
        for name in ("granted", "caller", "former")
    }
    assert by == {
        "granted": [*both, *stop, "grant.ended"], "caller": [*both, *stop], "former": stop,
    }  # fmt: skip
    assert found[0][2]["replacement"] == "flow-two"


def test_notices_are_counted_and_read_one_by_one_or_all_at_once(city):
    History(city).ask("flow", "champion", 2, "", OWNER)
    History(city).move("flow", "champion", 2, expected=1, reason="x", actor=OWNER)
    notices = Notices(city)
    assert (notices.unread("granted"), notices.unread("caller")) == (2, 2)
    notices.read(notices.find("granted")[0].id, "granted")
    assert notices.unread("granted") == 1
    assert [notices.read_all("granted") for _ in range(2)] == [1, 0]
    assert (notices.unread("granted"), notices.unread("caller")) == (0, 2)


@pytest.mark.parametrize(
    ("state", "kind"), [("rolled-back", "canary.back"), ("stopped", "canary.ended")]
)
def test_who_uses_an_algorithm_is_told_when_a_release_is_tried_and_when_that_is_over(
    city, state, kind
):
    traffics = Traffics(city)
    new = NewCanary(target="2", base="champion", steps=[10, 50])
    canary = traffics.start("flow", new, 2, 1, OWNER)
    begun = {"version": 2, "previous": 1, "percent": "10"}
    assert told(city) == [(who, "canary.begun", begun) for who in ("caller", "granted")]
    traffics.move(canary.id, "running", 1, "it holds")
    assert len(told(city)) == 2, "a step is no news"
    traffics.move(canary.id, state, 1, "calls failed")
    assert told(city)[2:] == [
        (who, kind, {**begun, "percent": "0"}) for who in ("caller", "granted")
    ]
