"""Splits are what they say and sticky, bad releases go back, shadows reach nobody, fallbacks say so."""

from collections import Counter
from datetime import timedelta

import pytest
from pydantic import ValidationError
from support_door import ADMIN
from support_rollouts import City, failing, sleeping

from citybrain.core.errors import Conflict, InvalidInput, ModelFailed, NotReady, VersionNotFound
from citybrain.core.names import Ref
from citybrain.core.schemas import NewCanary, NewTraffic, Share, Traffic
from citybrain.serving.rollout.judge import Verdict, Window, judge, lower_bound
from citybrain.serving.rollout.shadow import difference, report
from citybrain.serving.rollout.traffic import drawn, is_shadowed, lot
from citybrain.serving.wire import Served, error_reply
from citybrain.storage.moments import now
from citybrain.storage.records.draws import Arm

PLAN = NewCanary(target="7", seconds=10, calls=50)


def split(**shares):
    return [Share(target=target, percent=percent) for target, percent in shares.items()]


def test_ten_percent_of_two_thousand_calls_are_ten_percent_and_sticky():
    shares = split(new=10, old=90)
    drawn_to = {n: drawn(shares, lot("flow", f"key/session-{n}")) for n in range(2000)}
    assert 160 <= Counter(drawn_to.values())["new"] <= 240
    assert all(drawn(shares, lot("flow", f"key/session-{n}")) == t for n, t in drawn_to.items())


def test_who_met_the_release_meets_it_again_while_its_share_grows():
    met = set()
    for percent in (1, 5, 25, 50, 100):
        shares = split(new=percent, old=100 - percent)
        here = {n for n in range(3000) if drawn(shares, lot("flow", str(n))) == "new"}
        assert met <= here
        met = here
    assert len(met) == 3000


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"split": [{"target": "a", "percent": 50}]}, "add up to 100"),
        ({"split": [{"target": "a", "percent": 50}] * 2}, "twice"),
        ({"shadow": "a"}, "belong together"),
        ({"shadow_percent": 10}, "belong together"),
        ({"fallback_ms": 10}, "needs a fallback"),
        ({"fallback": ["a", "a"]}, "twice"),
        ({"split": [{"target": "a", "percent": float("nan")}]}, "percent"),
        ({"weights": {}}, "Extra inputs"),
    ],
)
def test_a_plan_that_could_not_take_effect_is_refused(body, reason):
    with pytest.raises(ValidationError, match=reason):
        NewTraffic.model_validate(body)


@pytest.mark.parametrize(("steps", "reason"), [([50, 5], "grow"), ([0, 5], "grow"), ([101], "100")])
def test_steps_that_do_not_grow_are_refused(steps, reason):
    with pytest.raises(ValidationError, match=reason):
        NewCanary(target="7", steps=steps)


GOOD = Arm(1000, 5, 4.0, 9.0)


@pytest.mark.parametrize(
    ("canary", "seconds", "act"),
    [
        (Arm(0, 0), 1, "wait"),
        (Arm(60, 0, 4.0, 9.0), 5, "wait"),  # calls enough, time not
        (Arm(40, 0, 4.0, 9.0), 60, "wait"),  # time enough, calls not
        (Arm(60, 0, 4.0, 9.0), 11, "forward"),
        (Arm(60, 1, 4.0, 9.0), 11, "forward"),  # one failure of sixty proves nothing
        (Arm(6, 6), 1, "back"),  # six of six are enough
        (Arm(60, 12, 4.0, 9.0), 2, "back"),
        (Arm(25, 0, 40.0, 90.0), 2, "back"),  # ten times as slow
        (
            Arm(60, 0, 4.1, 30.0, (*[4.1] * 52, *[30.0] * 8)),
            2,
            "back",
        ),  # its slow calls are three times as slow
        (Arm(60, 0, 4.1, 30.0, (*[4.1] * 57, *[30.0] * 3)), 11, "forward"),  # a twentieth is chance
        (Arm(60, 0, 5.0, 11.0), 11, "forward"),
    ],
)
def test_the_judge_goes_back_when_it_is_sure_and_forward_when_it_has_seen_enough(
    canary, seconds, act
):
    assert judge(PLAN, Window(GOOD, canary, seconds)).act == act


def test_the_judge_does_not_take_noise_below_two_milliseconds_for_slowness():
    fast = Arm(1000, 0, 0.2, 0.4)
    assert judge(PLAN, Window(fast, Arm(60, 0, 0.9, 2.0), 11)).act == "forward"


def test_the_lower_bound_is_wilsons():
    assert lower_bound(10, 100) == pytest.approx(0.0552, abs=1e-4)
    assert lower_bound(0, 50) == pytest.approx(0)


@pytest.mark.parametrize("algorithm", ["flow", "traffic-flow", "crowd-level"])
def test_a_shadow_sees_calls_of_both_sides_of_a_split(algorithm):
    ids = [f"{1763720000000 + n // 7:012x}deadbeef{n:012x}" for n in range(20_000)]
    traffic = Traffic(algorithm=algorithm, shadow="new", shadow_percent=20)
    shadowed = [i for i in ids if is_shadowed(traffic, i)]
    assert len(shadowed) == pytest.approx(4000, rel=0.1)
    assert sum(lot(algorithm, i) < 50 for i in shadowed) == pytest.approx(2000, rel=0.1)


@pytest.fixture
def city(tmp_path):
    return City(tmp_path)


def plan(city, **values):
    city.traffics.put("flow", NewTraffic(**values), ADMIN)


def test_calls_are_split_and_those_of_one_session_stay_together(city):
    plan(city, split=[{"target": "7", "percent": 30}, {"target": "champion", "percent": 70}])
    targets = Counter(answered.route.target for answered in city.call_all(1000))
    assert 240 <= targets["7"] <= 360
    together = {answered.route.target for answered in city.call_all(50, sticky="session")}
    assert len(together) == 1


def test_a_target_that_stopped_loses_no_call(city):
    plan(city, split=[{"target": "9", "percent": 100}])
    assert {a.route.target for a in city.call_all(10)} == {"champion"}


@pytest.mark.parametrize(("answer", "wait"), [(failing, 0), (sleeping, 50)])
def test_a_fallback_answers_instead_says_so_and_the_call_is_settled_once(city, answer, wait):
    plan(city, fallback=["7"], fallback_ms=wait)
    city.answers["champion"] = answer
    found = city.call_all(20)
    assert {(a.route.version, a.instead) for a in found} == {(7, "champion")}
    assert (b"x-fallback", b"7") in found[0].headers
    lines = city.settled()
    assert len({line[1] for line in lines}) == len(lines) == 20
    assert {line[8] for line in lines} == {7}
    assert {line[9] for line in lines} == {200}


def test_when_all_fail_the_caller_learns_it_and_the_ledger_too(city):
    plan(city, fallback=["7", "9"])
    city.answers = {"champion": failing, "7": failing}
    found = city.call_all(5)
    assert all(isinstance(error, ModelFailed) for error in found)
    assert [line[9] for line in city.settled()] == [500] * 5


def test_wrong_input_needs_no_fallback(city):
    plan(city, fallback=["7"])

    async def refuses(calls):
        return Served([error_reply("bad_tensor", "no", "")] * len(calls))

    city.answers["champion"] = refuses
    assert {error.code for error in city.call_all(3)} == {"bad_tensor"}
    assert city.seen["7"] == 0


def test_a_shadow_reaches_nobody_costs_nobody_and_its_differences_are_kept(city):
    plan(city, shadow="7", shadow_percent=50)
    city.answers = {"champion": [1.0, 2.0], "7": [1.0, 2.5]}
    bodies = set()
    for _ in range(40):
        bodies |= {a.reply.body for a in city.call_all(1)}
    assert bodies == {b'{"outputs":[1.0,2.0]}'}
    assert 10 <= city.seen["7"] <= 30
    assert len(city.settled()) == 40
    found = report(city.home / "shadows", "flow")
    assert (found["compared"], found["agreeing"]) == (city.seen["7"], 0)
    assert found["versions"] == [(2, 7)]
    worst = found["most_different"][0]
    assert worst["difference"] == pytest.approx(0.2)
    assert (worst["answer"], worst["shadow"]) == ({"outputs": [1.0, 2.0]}, {"outputs": [1.0, 2.5]})


def test_a_shadow_that_fails_or_hangs_harms_no_caller(city):
    plan(city, shadow="7", shadow_percent=100)
    city.answers["7"] = failing
    assert all(not isinstance(a, Exception) for a in city.call_all(10))
    assert report(city.home / "shadows", "flow")["shadow_failed"] >= 1
    city.answers["7"] = sleeping
    assert all(not isinstance(a, Exception) for a in city.call_all(10))


@pytest.mark.parametrize(
    ("one", "other", "gap"),
    [
        (1.0, 1.0, 0), (1.0, 2.0, 0.5), ([1, 2], [1, 2, 3], 1), ({"a": 1}, {"b": 1}, 1),
        ("road", "lamp", 1), (True, 1, 1), (None, None, 0), ({"a": [1.0, "x"]}, {"a": [1.1, "x"]}, 0.0909),
    ],
)  # fmt: skip
def test_the_difference_of_two_answers(one, other, gap):
    assert difference(one, other) == pytest.approx(gap, abs=1e-4)


@pytest.fixture
def rollouts(city):
    city.arms = {2: GOOD, 7: Arm(60, 0, 4.0, 9.0)}
    return city.rollouts(lambda *_: city.arms)


def shares(city):
    return {share.target: share.percent for share in city.traffics.get("flow").split}


def later(monkeypatch, seconds):
    moment = now() + timedelta(seconds=seconds)
    monkeypatch.setattr("citybrain.serving.rollout.canary.now", lambda: moment)


def test_a_good_canary_walks_through_its_steps_and_holds_until_it_is_promoted(
    city, rollouts, monkeypatch
):
    begun = rollouts.start("flow", NewCanary(target="7", steps=[10, 50, 100], seconds=5), ADMIN)
    assert (begun.percent, shares(city)) == (10, {"7": 10, "champion": 90})
    rollouts.step()
    assert shares(city)["7"] == 10, "not before its time"
    for number, percent in enumerate((50, 100, 100), 1):
        later(monkeypatch, 6 * number)
        rollouts.step()
        assert shares(city)["7"] == percent
    (found,) = city.traffics.canaries("flow")
    assert (found.state, [step.percent for step in found.log]) == ("passed", [10, 50, 100, 100])
    city.deploy("champion", 7)  # promoted, and its deployment followed
    rollouts.step()
    assert (shares(city), city.traffics.get("flow").canary) == ({}, "")


def test_a_bad_canary_goes_back_to_nothing_and_says_why(city, rollouts):
    rollouts.start("flow", NewCanary(target="7", steps=[10, 100]), ADMIN)
    city.arms[7] = Arm(30, 20, 4.0, 9.0)
    rollouts.step()
    (found,) = city.traffics.canaries("flow")
    assert (found.state, found.percent, shares(city)) == ("rolled-back", 0, {})
    assert found.log[-1].says == "20 of 30 calls failed, 0.5% before it"
    rollouts.step()
    assert len(city.traffics.canaries("flow")[0].log) == 2


def test_a_canary_whose_version_went_away_goes_back(city, rollouts):
    rollouts.start("flow", NewCanary(target="7"), ADMIN)
    city.deploy("7", 8)
    rollouts.step()
    assert city.traffics.canaries("flow")[0].state == "rolled-back"


def test_a_canary_outlives_a_restart_of_everything(city, rollouts):
    rollouts.start("flow", NewCanary(target="7"), ADMIN)
    for target in ("champion", "7"):
        city.deployments.saw("flow", target, state="starting", running={})
    rollouts.step()
    assert city.traffics.canaries("flow")[0].state == "running"
    city.deploy("champion", 2)
    rollouts.step()
    assert city.traffics.canaries("flow")[0].state == "rolled-back"


def test_any_judge_can_be_passed_in(city):
    stern = city.rollouts(
        lambda *_: {}, lambda plan, window: Verdict("back", "worse in its scenario")
    )
    stern.start("flow", NewCanary(target="7"), ADMIN)
    stern.step()
    assert city.traffics.canaries("flow")[0].log[-1].says == "worse in its scenario"


def test_one_canary_at_a_time_and_no_hand_in_its_split(city, rollouts):
    rollouts.start("flow", NewCanary(target="7"), ADMIN)
    with pytest.raises(Conflict, match="canary already"):
        rollouts.start("flow", NewCanary(target="7"), ADMIN)
    with pytest.raises(Conflict, match="shares the calls"):
        rollouts.put("flow", NewTraffic(), ADMIN)
    assert rollouts.stop("flow", ADMIN).state == "stopped"
    with pytest.raises(InvalidInput, match="no canary"):
        rollouts.stop("flow", ADMIN)
    assert shares(city) == {}


def test_a_shadow_that_would_say_nothing_or_too_much_is_refused(city, rollouts):
    shadow = {"shadow": "7", "shadow_percent": 5}
    with pytest.raises(InvalidInput, match="answers callers already"):
        rollouts.put("flow", NewTraffic(split=[{"target": "7", "percent": 100}], **shadow), ADMIN)
    assert rollouts.put("flow", NewTraffic(**shadow), ADMIN).shadow == "7"
    for target, reason in (("champion", "answers callers already"), ("twin", "would say nothing"),
                           ("private", "personal data"), ("pipe", "is a pipeline")):  # fmt: skip
        city.deploy("twin", 2)
        city.deploy("private", 8, level="personal")
        city.deploy("pipe", 9, plan={"steps": []})
        with pytest.raises(InvalidInput, match=reason):
            rollouts.put("flow", NewTraffic(shadow=target, shadow_percent=5), ADMIN)
    city.deploy("champion", 2, level="sensitive")
    with pytest.raises(InvalidInput, match="sensitive data"):
        rollouts.put("flow", NewTraffic(**shadow), ADMIN)


def test_what_does_not_run_cannot_be_tried_or_asked(city, rollouts):
    with pytest.raises(NotReady, match="flow@9 does not run"):
        rollouts.start("flow", NewCanary(target="9"), ADMIN)
    city.deploy("twin", 2)
    with pytest.raises(InvalidInput, match="same version"):
        rollouts.start("flow", NewCanary(target="twin"), ADMIN)
    for wrong in ({"fallback": ["9"]}, {"shadow": "9", "shadow_percent": 5},
                  {"split": [{"target": "9", "percent": 100}]}):  # fmt: skip
        with pytest.raises(InvalidInput, match="does not run"):
            rollouts.put("flow", NewTraffic(**wrong), ADMIN)


def test_a_deployment_that_has_just_begun_to_run_is_not_refused(city):
    """A gateway that does not know it yet looks again, though others of the algorithm run."""
    city.directory.load()
    assert city.directory.route(Ref("flow", "7")).version == 7
    city.directory._looked = 0.0
    city.deploy("8", 8)
    assert city.directory.route(Ref("flow", "8")).version == 8
    with pytest.raises(VersionNotFound):
        city.directory.route(Ref("flow", "9"))
