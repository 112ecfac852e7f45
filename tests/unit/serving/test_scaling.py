"""The load that a replica tells, and how many replicas it asks for."""

from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from citybrain.core.errors import InvalidInput
from citybrain.core.schemas import NewDeployment, Scaling
from citybrain.platform.cli.running import _many
from citybrain.serving.scaling import Load, autoscaling, by_load


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_the_load_is_the_mean_number_of_frames_since_it_was_last_asked(clock):
    load = Load(clock)
    clock.now += 4
    with load.frame():
        clock.now += 3
        load.change(2)
        clock.now += 1
        load.change(-2)
    clock.now += 2
    assert load.take() == (3 * 1 + 1 * 3) / 10
    clock.now += 5
    assert load.take() == 0


def test_a_frame_that_is_still_there_counts_in_every_report(clock):
    load = Load(clock)
    with load.frame(), load.frame():
        clock.now += 1
        assert load.take() == 2
        clock.now += 0.5
        assert load.take() == 2
        assert load.take() == 2  # asked again at once
    clock.now += 1
    assert load.take() == 0


def test_a_frame_that_fails_is_there_no_more(clock):
    load = Load(clock)
    with pytest.raises(ZeroDivisionError), load.frame():
        clock.now += 1
        raise ZeroDivisionError
    load.take()
    clock.now += 1
    assert load.take() == 0


def seen(loads, queued=0.0, current=None, target=1.0):
    return SimpleNamespace(
        current_num_replicas=len(loads) if current is None else current, target_num_replicas=7,
        aggregated_metrics={"load": dict(enumerate(loads))} if loads else {},
        total_queued_requests=queued, config=SimpleNamespace(target_ongoing_requests=target),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("context", "wanted"),
    [
        (seen([1.0]), 1),  # one caller after the other: one replica, however busy
        (seen([2.0, 2.0]), 4),
        (seen([2.0, 2.0], target=2.0), 2),
        (seen([0.0, 0.0]), 0),  # Serve itself keeps to the least
        (seen([0.0], queued=3.0), 3),  # who waits for a replica counts, too
        (seen([], current=1), 0),  # it has reported nothing yet
        (seen([], current=0), 7),  # what starts is left to start
        (seen([0.1, 0.2]), 0.3),  # and rounding asks for no other one
    ],
)
def test_the_policy_shares_the_frames_at_the_wanted_load(context, wanted):
    assert by_load(context)[0] == wanted


def test_the_first_start_has_a_replica_even_where_none_must_run():
    scaling = Scaling(min_replicas=0, max_replicas=4)
    assert autoscaling(scaling, first=True)["initial_replicas"] == 1
    assert "initial_replicas" not in autoscaling(scaling, first=False)
    assert autoscaling(Scaling(min_replicas=2, max_replicas=4), first=True)["initial_replicas"] == 2


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"scaling": {"min_replicas": 3, "max_replicas": 2}}, "above max_replicas"),
        ({"scaling": {"min_replicas": 2, "max_replicas": 2}}, "never scales; say replicas"),
        ({"scaling": {"max_replicas": 0, "min_replicas": 0}}, "greater than or equal to 1"),
        ({"scaling": {"min_replicas": -1, "max_replicas": 2}}, "greater than or equal to 0"),
        ({"scaling": {"min_replicas": 1}}, "Field required"),
        ({"scaling": {"max_replicas": 65}}, "less than or equal to 64"),
        ({"scaling": {"max_replicas": 2, "sleep_after": 60}}, "needs min_replicas 0"),
        ({"scaling": {"min_replicas": 0, "max_replicas": 2, "sleep_after": -1}}, "greater than"),
        ({"scaling": {"max_replicas": 2, "target_load": 2}}, "less than or equal to 1.5"),
        ({"scaling": {"max_replicas": 2, "up_after": -1}}, "greater than or equal to 0"),
        ({"scaling": {"max_replicas": 2, "target_load": float("nan")}}, "a finite number"),
        ({"scaling": {"min_replicas": 0, "max_replicas": 1, "down_after": 5}}, "no effect"),
        ({"scaling": {"max_replicas": 2, "cooldown": 5}}, "Extra inputs"),
        ({"replicas": 2, "scaling": {"max_replicas": 2}}, "not both"),
        ({"replicas": 0}, "greater than or equal to 1"),
    ],
)
def test_what_could_not_take_effect_is_refused_with_the_reason(body, reason):
    with pytest.raises(ValidationError, match=reason):
        NewDeployment.model_validate({"target": "champion", **body})


def test_a_fixed_number_is_said_as_before():
    assert NewDeployment().most == 1
    assert NewDeployment(replicas=3).most == 3
    assert NewDeployment(scaling=Scaling(max_replicas=3)).most == 3


def test_the_command_line_takes_a_number_or_a_range():
    nothing = dict.fromkeys(["target_load", "up_after", "down_after", "sleep_after"])
    assert _many("2", **nothing) == NewDeployment(replicas=2)
    found = _many("0..4", **{**nothing, "sleep_after": 60.0}).scaling
    assert found == Scaling(min_replicas=0, max_replicas=4, sleep_after=60)


@pytest.mark.parametrize(
    ("replicas", "settings", "reason"),
    [
        ("many", {}, "neither a number nor a range"),
        ("1..", {}, "neither a number nor a range"),
        ("4..1", {}, "min_replicas \\(4\\) is above max_replicas \\(1\\)"),
        ("0", {}, "greater than or equal to 1"),
        ("2", {"up_after": 3.0}, "--up-after has no effect on a fixed number"),
        ("1..2", {"sleep_after": 3.0}, "sleep_after needs min_replicas 0"),
    ],
)
def test_the_command_line_says_what_is_wrong(replicas, settings, reason):
    with pytest.raises(InvalidInput, match=reason):
        _many(replicas, **settings)


def test_one_that_shares_a_replica_has_no_number_and_no_range():
    assert _many("1", shared=True).shared
    for replicas in ("2", "0..2", "1..4"):
        with pytest.raises(InvalidInput, match="one replica together"):
            _many(replicas, shared=True)
