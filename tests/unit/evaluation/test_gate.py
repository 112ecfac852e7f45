"""Gates are pure: the same numbers give the same verdict, and the sentence names them."""

import math

import pytest

from citybrain.core.errors import BadScenario, ScenarioNotFound
from citybrain.evaluation.gate import decide, rule_text
from citybrain.evaluation.scenario import GateRule, find_scenario, read_scenario, scenarios

WHOLE = {"accuracy": 0.8, "cer": 0.1}


def verdict(rule, figures=None, baseline=None, champion=None):
    others = {"baseline": {"": baseline or {}}, "champion": {"": champion or {}}}
    (found,) = decide([GateRule(**rule)], figures or {"": WHOLE}, others)
    return found["passed"], found["says"]


@pytest.mark.parametrize(
    ("rule", "passed"),
    [
        ({"metric": "accuracy", "at_least": 0.8}, True),
        ({"metric": "accuracy", "at_least": 0.81}, False),
        ({"metric": "cer", "at_most": 0.1}, True),
        ({"metric": "cer", "at_most": 0.09}, False),
        ({"metric": "accuracy", "at_least": 0.7, "at_most": 0.75}, False),
    ],
)
def test_absolute_rules(rule, passed):
    assert verdict(rule)[0] is passed


@pytest.mark.parametrize(
    ("metric", "other", "by", "passed"),
    [
        ("accuracy", 0.7, 0.05, True),
        ("accuracy", 0.7, 0.2, False),
        ("accuracy", 0.8, 0.0, False),
        ("cer", 0.3, 0.1, True),
        ("cer", 0.05, 0.0, False),
    ],
)
def test_better_than_follows_the_metrics_direction(metric, other, by, passed):
    rule = {"metric": metric, "better_than": "baseline", "by": by}
    assert verdict(rule, baseline={metric: other})[0] is passed


def test_a_first_version_has_no_champion_to_beat():
    passed, says = verdict({"metric": "accuracy", "better_than": "champion"})
    assert passed
    assert "no champion" in says


def test_a_slice_is_compared_with_the_same_slice():
    rule = GateRule(metric="accuracy", better_than="baseline", slice="light=night")
    figures = {"": {"accuracy": 0.9}, "light=night": {"accuracy": 0.5}}
    others = {"baseline": {"": {"accuracy": 0.1}, "light=night": {"accuracy": 0.6}}}
    (found,) = decide([rule], figures, others)
    assert not found["passed"]
    assert "on light=night is 0.5" in found["says"]


def test_what_cannot_be_measured_does_not_pass():
    assert not verdict({"metric": "accuracy", "at_least": 0.0, "slice": "light=fog"})[0]
    assert not verdict({"metric": "cer", "at_most": 1.0}, figures={"": {"cer": math.nan}})[0]


def test_rules_read_like_sentences():
    rule = GateRule(metric="cer", at_most=0.1, slice="line=phone")
    assert rule_text(rule) == "cer on line=phone ≤ 0.1"


def test_scenarios_are_found_and_a_wrong_name_suggests_the_nearest():
    assert find_scenario("scenic-crowd").domain == "tourism"
    with pytest.raises(ScenarioNotFound, match="Did you mean 'scenic-crowd'"):
        find_scenario("scenic-crowds")
    assert len(scenarios()) >= 5


BROKEN = [
    ("name: x1\nbad: [\n", "s.yaml:3"),
    ("name: UPPER\n", "s.yaml:1: name"),
    ("metrics: [no-such-metric]\n", "s.yaml"),
]


@pytest.mark.parametrize(("text", "says"), BROKEN)
def test_a_broken_scenario_names_the_line(tmp_path, text, says):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(BadScenario, match=says):
        read_scenario(path)
