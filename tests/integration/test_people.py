"""Departments, users and keys in the platform database, SQLite and PostgreSQL."""

import time
from datetime import timedelta

import pyotp
import pytest

from citybrain.core.errors import (
    Conflict,
    InvalidInput,
    NameTaken,
    NotAllowed,
    RowNotFound,
    SignInFailed,
    WeakPassword,
)
from citybrain.core.schemas import (
    Actor,
    DepartmentChange,
    NewDepartment,
    NewKey,
    NewRotation,
    NewUser,
    UserChange,
)
from citybrain.platform import factors
from citybrain.platform.reception import Reception
from citybrain.storage.moments import now
from citybrain.storage.records.audit import entries
from citybrain.storage.records.history import History
from citybrain.storage.records.people import People
from citybrain.storage.records.users import Users
from citybrain.storage.tables import AlgorithmRow

ADMIN = Actor(key="k1", department="platform", role="admin")


@pytest.fixture
def people(database):
    return People(database)


def grow(people):
    for name, parent, tier in (
        ("city-hall", "", None), ("traffic", "city-hall", None), ("west-lake", "city-hall", "district"),
        ("lingyin", "west-lake", "township"), ("tourism", "", "city"),
    ):  # fmt: skip
        people.add_department(NewDepartment(name=name, parent=parent, tier=tier), ADMIN)


def test_departments_make_a_tree_and_a_part_of_it_can_be_asked_for(people, database):
    grow(people)
    found = {one.name: (one.parent, one.tier) for one in people.departments()}
    assert found["traffic"] == ("city-hall", "city"), "who says no tier gets the parent's"
    assert found["lingyin"] == ("west-lake", "township")
    assert {d.name for d in people.departments("west-lake")} == {"west-lake", "lingyin"}
    assert len(people.departments("city-hall")) == 4
    with pytest.raises(RowNotFound):
        people.departments("nowhere")
    change = DepartmentChange(parent="tourism", title_zh="西湖区")
    moved = people.change_department("west-lake", change, ADMIN)
    assert (moved.parent, moved.tier, moved.title_zh) == ("tourism", "district", "西湖区")
    assert {d.name for d in people.departments("tourism")} == {"tourism", "west-lake", "lingyin"}
    act = entries(database)[0]
    assert (act.action, act.object, act.detail["parent"]) == (
        "department.change", "west-lake", "tourism",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("city-hall", {"parent": "lingyin"}, "cannot be below"),
        ("city-hall", {"parent": "city-hall"}, "cannot be below"),
        ("tourism", {"parent": "west-lake"}, r"\(city\) cannot be below west-lake \(district\)"),
        ("west-lake", {"tier": "township", "parent": "lingyin"}, "cannot be below"),
        ("city-hall", {"tier": "township"}, "cannot be below city-hall"),
        ("tourism", {"parent": "nowhere"}, "no department nowhere"),
        ("nowhere", {"tier": "city"}, "no department nowhere"),
    ],
)
def test_a_place_that_is_none_is_refused_and_nothing_moves(people, name, change, says):
    grow(people)
    before = people.departments()
    with pytest.raises((InvalidInput, RowNotFound), match=says):
        people.change_department(name, DepartmentChange(**change), ADMIN)
    assert people.departments() == before


def test_a_department_is_added_below_one_that_is_there(people):
    with pytest.raises(RowNotFound):
        people.add_department(NewDepartment(name="lingyin", parent="west-lake"), ADMIN)
    people.add_department(NewDepartment(name="west-lake", tier="district"), ADMIN)
    with pytest.raises(InvalidInput, match="cannot be below"):
        people.add_department(NewDepartment(name="up", parent="west-lake", tier="city"), ADMIN)
    with pytest.raises(NameTaken):
        people.add_department(NewDepartment(name="west-lake"), ADMIN)
    assert [one.name for one in people.departments()] == ["west-lake"]


def issue(people, key_id="old", **more):
    people.add_department(NewDepartment(name="tourism"), ADMIN)
    new = NewKey(
        department="tourism", scopes=["call:flow"], networks=["10.1.2.3/16"], level="sensitive",
        purposes=["operation", "research"], note="app", **more,
    )  # fmt: skip
    return people.add_key(new, key_id, f"hash of {key_id}", ADMIN)


def test_a_rotated_key_has_the_same_rights_and_the_old_one_ends_after_the_overlap(people, database):
    old = issue(people)
    assert old.networks == ["10.1.0.0/16"]
    new = people.rotate_key("old", "new", "hash of new", NewRotation(overlap_seconds=60), ADMIN)
    same = {"department", "role", "purposes", "scopes", "networks", "level", "note", "expires_at"}
    assert new.model_dump(include=same) == old.model_dump(include=same)
    before = people.key("old")
    assert before.successor == "new"
    for later, living in ((30, {"old", "new"}), (61, {"new"})):
        found = people.living_keys(now() + timedelta(seconds=later))
        assert {key.id for _, key in found} == living
    assert people.shown_key("hash of old", now()).id == "old"
    assert people.shown_key("hash of old", now() + timedelta(seconds=61)) is None
    act = entries(database)[0]
    assert (act.action, act.object) == ("key.rotate", "old")
    assert act.detail == {"successor": "new", "overlap_seconds": 60}
    with pytest.raises(Conflict, match="replaced by new already"):
        people.rotate_key("old", "third", "hash of third", NewRotation(), ADMIN)


def test_a_rotation_never_makes_a_key_live_longer_and_may_end_the_old_one_at_once(people):
    end = now() + timedelta(seconds=30)
    issue(people, expires_at=end)
    people.rotate_key("old", "new", "hash of new", NewRotation(overlap_seconds=3600), ADMIN)
    assert people.key("old").expires_at == people.key("new").expires_at == end
    people.rotate_key("new", "last", "hash of last", NewRotation(overlap_seconds=0), ADMIN)
    assert people.living_key("new", now()) is None
    people.revoke_key("last", ADMIN)
    for key_id, error in (("last", Conflict), ("new", Conflict), ("none", RowNotFound)):
        with pytest.raises(error):
            people.rotate_key(key_id, "x", "hash of x", NewRotation(), ADMIN)


# People who sign in


@pytest.fixture
def reception(people, database):
    people.add_department(NewDepartment(name="tourism"), ADMIN)
    users = Users(database)
    users.ready(lambda: factors.hash_password("nobody has this one"))
    return Reception(users, b"pepper")


def code_of(secret, ahead=0):
    return pyotp.TOTP(secret).at(time.time() + ahead * factors.STEP)


def let_in(reception, name="li-na", role="department", password="correct horse battery"):
    """A person who has chosen; the secret of their codes, and their session."""
    issued = reception.add(NewUser(name=name, department="tourism", role=role), ADMIN)
    choice = reception.sign_in(name, issued.password, "")
    code = code_of(choice.secret) if role in ("admin", "auditor") else ""
    return choice.secret, reception.choose(choice.ticket, password, password, code)


def test_a_person_chooses_a_password_once_and_signs_in_with_it(reception, people, database):
    issued = reception.add(NewUser(name="li-na", department="tourism", level="sensitive"), ADMIN)
    choice = reception.sign_in("li-na", issued.password, "")
    assert not choice.needs_code
    for password, again, error in (
        ("correct horse battery", "another one", InvalidInput), ("short", "short", WeakPassword),
        ("li-na li-na li-na", "li-na li-na li-na", WeakPassword), ("aaaaaaaaaaaaaa",) * 2 + (WeakPassword,),
        (issued.password, issued.password, WeakPassword),
    ):  # fmt: skip
        with pytest.raises(error):
            reception.choose(choice.ticket, password, again, "")
    first = reception.choose(choice.ticket, *["correct horse battery"] * 2, "")
    assert (first.user, first.department, first.role, first.level) == (
        "li-na", "tourism", "department", "sensitive",
    )  # fmt: skip
    with pytest.raises(SignInFailed):
        reception.choose(choice.ticket, *["correct horse battery 2"] * 2, "")
    with pytest.raises(SignInFailed):
        reception.sign_in("li-na", issued.password, "")
    second = reception.sign_in("li-na", "correct horse battery", "")
    assert second.id != first.id
    assert people.living_key(second.id, now()).user == "li-na"
    assert people.keys() == [], "a session is no service key"
    (user,) = Users(database).find()
    assert (user.sessions, user.second_factor, user.one_time_until) == (2, False, None)
    dumped = "\n".join(
        str(row) for row in database.engine.connect().exec_driver_sql("SELECT * FROM users")
    )
    assert "correct horse" not in dumped
    assert issued.password not in dumped
    acts = [(entry.action, entry.object) for entry in entries(database)]
    assert acts[0] == ("session.open", "li-na")
    assert ("user.add", "li-na") in acts


@pytest.mark.parametrize("role", ["admin", "auditor"])
def test_admins_and_auditors_need_a_code_and_no_code_counts_twice(reception, database, role):
    issued = reception.add(NewUser(name="wang", department="tourism", role=role), ADMIN)
    choice = reception.sign_in("wang", issued.password, "")
    assert choice.needs_code
    password = "correct horse battery"
    for code in ("", "000000", code_of(choice.secret, -5)):
        with pytest.raises(InvalidInput):
            reception.choose(choice.ticket, password, password, code)
    used = code_of(choice.secret)
    reception.choose(choice.ticket, password, password, used)
    for code in ("", used, "123", code_of(choice.secret, 9)):
        with pytest.raises(SignInFailed):
            reception.sign_in("wang", password, code)
    assert reception.sign_in("wang", password, code_of(choice.secret, 1)).user == "wang"
    with database.engine.connect() as connection:
        (kept,) = connection.exec_driver_sql("SELECT totp FROM users WHERE name = 'wang'").one()
    assert choice.secret not in kept
    assert factors.unseal(b"pepper", "wang", kept) == choice.secret
    assert factors.unseal(b"another", "wang", kept) == ""


def test_five_wrong_tries_lock_for_a_minute_then_for_longer_and_a_right_one_forgives(
    reception, database, monkeypatch
):
    let_in(reception)
    clock = [now()]
    for module in ("citybrain.platform.reception", "citybrain.storage.records.users"):
        monkeypatch.setattr(f"{module}.now", lambda: clock[0])

    def tries(count, password="wrong"):
        for _ in range(count):
            with pytest.raises(SignInFailed):
                reception.sign_in("li-na", password, "")

    tries(4)
    assert reception.sign_in("li-na", "correct horse battery", "").user == "li-na"
    tries(5)
    tries(1, "correct horse battery")
    clock[0] += timedelta(seconds=61)
    tries(1)
    clock[0] += timedelta(seconds=61)
    tries(
        1, "correct horse battery"
    )  # locked for four minutes now: six wrong, and one while locked
    clock[0] += timedelta(seconds=181)
    assert reception.sign_in("li-na", "correct horse battery", "").user == "li-na"
    locks = [e.detail["seconds"] for e in entries(database) if e.action == "user.lock"]
    assert locks == [240, 60]
    tries(60)
    clock[0] += timedelta(minutes=15, seconds=1)
    assert reception.sign_in("li-na", "correct horse battery", "").user == "li-na"


def test_who_is_not_known_is_refused_in_the_same_words(reception):
    let_in(reception)
    said = set()
    for name, password in (
        ("li-na", "wrong"),
        ("nobody", "wrong"),
        ("", "wrong"),
        ("É", "x" * 500),
    ):
        with pytest.raises(SignInFailed) as refused:
            reception.sign_in(name, password, "")
        said.add(str(refused.value))
    assert len(said) == 1


def test_a_person_who_is_disabled_changed_or_reset_is_signed_out(reception, people, database):
    users = Users(database)
    _, key = let_in(reception)
    users.change("li-na", UserChange(role="developer"), ADMIN)
    assert people.living_key(key.id, now()) is None
    again = reception.sign_in("li-na", "correct horse battery", "")
    assert again.role == "developer"
    users.disable("li-na", ADMIN)
    assert people.living_key(again.id, now()) is None
    with pytest.raises(SignInFailed):
        reception.sign_in("li-na", "correct horse battery", "")
    users.enable("li-na", ADMIN)
    third = reception.sign_in("li-na", "correct horse battery", "")
    issued = reception.reset("li-na", ADMIN)
    assert people.living_key(third.id, now()) is None
    with pytest.raises(SignInFailed):
        reception.sign_in("li-na", "correct horse battery", "")
    assert reception.sign_in("li-na", issued.password, "").name == "li-na"
    herself = Actor(key="s1", department="tourism", role="admin", user="li-na")
    for act in (lambda: users.disable("li-na", herself), lambda: reception.reset("li-na", herself)):
        with pytest.raises(Conflict, match="to themselves"):
            act()
    for act in (users.disable, users.enable, reception.reset):
        with pytest.raises(RowNotFound):
            act("nobody", ADMIN)
        with pytest.raises(RowNotFound):
            act("", ADMIN)


def test_a_one_time_password_that_is_late_opens_nothing(reception, monkeypatch):
    issued = reception.add(NewUser(name="li-na", department="tourism"), ADMIN)
    choice = reception.sign_in("li-na", issued.password, "")
    for ticket in (
        "",
        "x",
        choice.ticket[:-1],
        choice.ticket.replace("li-na", "nobody"),
        "li-na.9.9",
    ):
        with pytest.raises(SignInFailed):
            reception.choose(ticket, *["correct horse battery"] * 2, "")
    later = now() + timedelta(days=3, seconds=1)
    monkeypatch.setattr("citybrain.platform.reception.now", lambda: later)
    with pytest.raises(SignInFailed):
        reception.sign_in("li-na", issued.password, "")


def test_who_is_made_an_admin_has_to_have_codes_first(reception, database):
    let_in(reception)
    Users(database).change("li-na", UserChange(role="admin"), ADMIN)
    assert reception.sign_in("li-na", "correct horse battery", "").needs_code


def test_a_person_changes_the_password_and_is_signed_out_elsewhere(reception, people, monkeypatch):
    secret, key = let_in(reception, "wang", "admin")
    old, fresh = "correct horse battery", "a new day has come"
    later = now() + timedelta(seconds=90)
    monkeypatch.setattr("citybrain.platform.reception.now", lambda: later)
    code = code_of(secret, 3)
    for given, new, again, error in (
        ((old, ""), fresh, fresh, SignInFailed), (("wrong", code), fresh, fresh, SignInFailed),
        ((old, code), fresh, "another", InvalidInput), ((old, code), old, old, WeakPassword),
    ):  # fmt: skip
        with pytest.raises(error):
            reception.change_password(key, *given, new, again)
    changed = reception.change_password(key, old, code, fresh, fresh)
    assert {k.id for _, k in people.living_keys(now())} == {changed.id}


def test_two_sessions_of_one_person_are_not_four_eyes(database):
    with database.write() as session:
        session.add(
            AlgorithmRow(name="flow", owner="traffic", approval="four-eyes", created_at=now())
        )
    history = History(database)

    def actor(key, user=""):
        return Actor(key=key, department="traffic", role="developer", user=user)

    asked = history.ask("flow", "champion", 1, "", actor("s1", "li-na"))
    with pytest.raises(NotAllowed, match="four eyes"):
        history.approve(asked.id, actor("s2", "li-na"), self_allowed=False)
    assert history.approve(asked.id, actor("s3", "wang"), self_allowed=False).state == "done"
    asked = history.ask("flow", "champion", 2, "", actor("k1"))
    with pytest.raises(NotAllowed, match="four eyes"):
        history.approve(asked.id, actor("k1"), self_allowed=False)
    assert history.approve(asked.id, actor("k2"), self_allowed=False).state == "done"
