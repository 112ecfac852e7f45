"""The table itself, scopes, and that nobody hands out more than they have."""

from datetime import UTC, datetime

import pytest

from citybrain.core.errors import InvalidInput, NotAllowed
from citybrain.core.schemas import Key, NewKey
from citybrain.platform.policy import (
    POLICY,
    ROLES,
    allows,
    check,
    check_not_more,
    check_scopes,
    covers,
    reaches,
    whose,
)


def key(role="department", department="tourism", **more):
    return Key(
        id="k1", department=department, role=role, note="", created_at=datetime.now(UTC),
        expires_at=None, revoked_at=None, **{"purposes": ["operation"], "level": "personal"} | more,
    )  # fmt: skip


def test_a_rule_is_for_anybody_or_for_roles():
    for action, rule in POLICY.items():
        assert rule.anonymous != bool(rule.any | rule.own), action
        assert not rule.any & rule.own, action
        assert rule.says[0].islower(), action
        assert not rule.says.endswith("."), action


def test_an_auditor_changes_nothing_and_an_admin_does_not_see_the_audit():
    reads = {a for a in POLICY if a.split(".")[-1] in ("read", "minutes")}
    reads.add("session.own")  # everybody changes their own password
    for action, rule in POLICY.items():
        if "auditor" in rule.any | rule.own:
            assert action in reads, action
    assert [role for role in ROLES if allows(key(role), "audit.read")] == ["auditor"]
    payloads = (
        "prediction.read",
        "prediction.all",
        "job.read",
        "job.result",
        "shadow.read",
        "call",
    )
    assert not any(allows(key("auditor"), action) for action in payloads)


def test_a_level_below_the_rule_is_refused_with_the_reason():
    with pytest.raises(NotAllowed, match="cleared for public data"):
        check(key(level="public"), "prediction.read")
    check(key(level="internal"), "prediction.read")
    with pytest.raises(NotAllowed, match="department may not issue keys"):
        check(key(), "key.issue")


@pytest.mark.parametrize(
    ("scopes", "action", "target", "covered"),
    [
        ([], "job.read", "", True),
        (["job.*"], "job.read", "", True),
        (["job.*"], "key.read", "", False),
        (["*.read"], "job.read", "", True),
        (["call"], "call", "crowd-level", True),
        (["call:*"], "call", "crowd-level", True),
        (["call:crowd-level"], "call", "crowd-level", True),
        (["call:crowd-level"], "call", "crowd-level-2", False),
        (["call:crowd-level"], "call", "", False),
        (["call:crowd-level"], "job.read", "", False),
        (["job.*", "call:a"], "call", "b", False),
    ],
)
def test_a_scope_covers_what_it_says(scopes, action, target, covered):
    assert covers(scopes, action, target) is covered
    assert allows(key(scopes=scopes), action, target) is covered


def test_a_scope_that_covers_nothing_is_refused():
    check_scopes(["job.*", "call", "call:*", "call:crowd-level", "*", "usage.read"])
    for scope in ("jobs.*", "call:", "call:No Name", "", "key.delete", "call:a:b"):
        with pytest.raises(InvalidInput):
            check_scopes([scope])


def test_own_means_the_same_department_and_nothing_else():
    assert reaches(key("developer"), "traffic.set", "tourism")
    assert not reaches(key("developer"), "traffic.set", "health")
    assert not reaches(key("department"), "traffic.set", "tourism")
    assert reaches(key("admin", "platform"), "traffic.set", "health")
    assert (whose(key(), "usage.read"), whose(key("auditor"), "usage.read")) == ("tourism", "")


@pytest.mark.parametrize(
    ("mine", "wanted"),
    [
        ({}, {"role": "developer"}),
        ({}, {"role": "admin"}),
        ({"level": "internal"}, {"level": "sensitive"}),
        ({"scopes": ["key.rotate"]}, {}),
        ({"scopes": ["key.rotate"]}, {"scopes": ["call"]}),
        ({"networks": ["10.1.0.0/16"]}, {}),
        ({"networks": ["10.1.0.0/16"]}, {"networks": ["0.0.0.0/0"]}),
        ({}, {"purposes": ["research"]}),
        ({"role": "admin", "level": "internal"}, {"level": "personal"}),
        ({"role": "admin", "scopes": ["key.issue"]}, {"role": "admin"}),
    ],
)
def test_nobody_hands_out_more_than_they_have(mine, wanted):
    with pytest.raises(NotAllowed, match="so it cannot give that"):
        check_not_more(key(**mine), NewKey(department="tourism", **wanted))


def test_the_same_or_less_may_be_handed_out():
    check_not_more(key(), NewKey(department="tourism", level="internal", scopes=["call"]))
    check_not_more(key(user="li"), NewKey(department="tourism", purposes=["research"]))
    check_not_more(key("admin"), NewKey(department="health", role="developer", purposes=["a-b"]))
