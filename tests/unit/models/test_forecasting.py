"""The forecasting task: items, tensors, clocks, quantiles and data sets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from scipy.stats import norm, t

from citybrain.core.errors import BadData, BadPackage, BadTensor, ModelFailed, RowNotFound
from citybrain.models.clock import CALENDAR, calendar_features, local_seconds, weekday
from citybrain.models.forecast_heads import to_quantiles
from citybrain.models.package import Manifest
from citybrain.models.task import open_task
from citybrain.models.tasks.forecasting import ForecastingOptions, History

OPTIONS: dict[str, Any] = {
    "context": 4, "min_context": 2, "horizon": 3, "step_seconds": 3600,
    "feature_service": "traffic-flow", "non_negative": True,
}  # fmt: skip


def make_task(**options: Any) -> Any:
    """The task with these options."""
    manifest = Manifest.model_validate(
        {
            "name": "flow", "title": {"zh": "流量", "en": "Flow"}, "task": "forecasting",
            "runtime": "torch", "weights": "w.safetensors", "domain": "traffic",
            "owner": "traffic", "licence": "Apache-2.0", "options": OPTIONS | options,
        }
    )  # fmt: skip
    return open_task(manifest)


@pytest.mark.parametrize(
    "wrong",
    [
        {"quantiles": [0.5, 0.1]}, {"quantiles": [0.0, 0.5]}, {"quantiles": []}, {"context": 1},
        {"min_context": 5}, {"timezone": "Mars/Phobos"}, {"timezone": "../../etc/passwd"},
        {"horizon": 0}, {"unknown": 1},
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadPackage, match="options"):
        make_task(**wrong)


def test_histories_are_cut_and_padded_to_one_length() -> None:
    task = make_task()
    tensors = task.read([History([1, 2, 3, 4, 5, 6]), History([7, 8])])
    assert tensors["series"].tolist() == [[3, 4, 5, 6], [7, 7, 7, 8]]
    assert set(tensors) == {"series"}
    assert task.signature().check_inputs(tensors) == 2


def test_an_answer_does_not_depend_on_who_else_asked() -> None:
    task = make_task()
    items = [History([1.0, 2, 3]), History([4.0, 5]), History(list(range(9)), "2026-03-02T08:00")]
    together = task.prepare(task.read(items))
    for index, item in enumerate(items):
        alone = task.prepare(task.read([item]))
        for name in ("series", "calendar"):
            np.testing.assert_array_equal(alone[name][0], together[name][index])


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (History(), "Item 1 has neither `series` nor `entity`"),
        (History([]), "Item 1 has 0 values"),
        (History([1.0]), "Item 1 has 1 values"),
        (History([1.0] * 10_001), "Item 1 has 10001 values"),
        (History(entity="s1"), "Item 1: the history of 's1' was not looked up"),
        (History([1.0, 2.0], "yesterday"), "'yesterday' is not a time"),
        (History([1.0, 2.0], "1850-01-01"), "between the years"),
        (History([1.0, 2.0], "9999-01-01"), "between the years"),
    ],
)
def test_a_bad_item_is_named(item: History, message: str) -> None:
    with pytest.raises(BadTensor, match=message):
        make_task().read([History([1.0, 2.0]), item])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e300])
def test_values_that_are_no_numbers_are_refused(bad: float) -> None:
    task = make_task()
    with pytest.raises(BadTensor, match="NaN or infinity"):
        task.signature().check_inputs(task.read([History([1.0, bad])]))


def test_tensors_that_came_without_items_are_checked_too() -> None:
    task = make_task()
    with pytest.raises(BadTensor, match="Each series has 1 values"):
        task.prepare({"series": np.zeros((2, 1), np.float32)})
    series = np.zeros((1, 4), np.float32)
    for wrong in (-5, 1_772_380_800_000):
        with pytest.raises(BadTensor, match="unix seconds"):
            task.prepare({"series": series, "last_time": np.array([wrong])})


def test_the_calendar_is_local_and_neutral_when_unknown() -> None:
    task = make_task()
    series = {"series": np.zeros((2, 4), np.float32)}
    assert not task.prepare(series)["calendar"].any()
    monday_noon = int(datetime(2026, 3, 2, 4, 0, tzinfo=UTC).timestamp())
    prepared = task.prepare(series | {"last_time": np.array([monday_noon, 0])})["calendar"]
    assert prepared.shape == (2, CALENDAR) and prepared.dtype == np.float32
    assert not prepared[1].any() and prepared[0, -1] == 1.0
    assert prepared[0, 0] == pytest.approx(0.0, abs=1e-6)  # the sine of noon
    assert prepared[0, 6] == pytest.approx(-1.0)  # and its cosine
    zone = task.options.zone
    week = monday_noon + 86_400 * np.arange(7)
    assert weekday(local_seconds(week, zone)).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert calendar_features(week, zone)[:, -2].tolist() == [0, 0, 0, 0, 0, 1, 1]
    assert "calendar" not in make_task(calendar=False).prepare(series)


def test_naive_times_are_those_of_the_city() -> None:
    task = make_task()
    pairs = [("2026-03-02T12:00", "2026-03-02T04:00:00Z"), ("2026-03-02T12:00+08:00",) * 2]
    for one, other in pairs:
        tensors = task.read([History([1, 2], one), History([1, 2], other), History([1, 2])])
        first, second, missing = tensors["last_time"].tolist()
        assert first == second and missing == 0


def test_named_sensors_are_filled_from_the_store_in_order() -> None:
    task = make_task()
    items = [History(entity="b"), History([1.0, 2.0], entity="x"), History(entity="a")]
    assert task.entities(items) == ["b", "a"]
    noon = datetime(2026, 3, 2, 4, 0, tzinfo=UTC)
    filled = task.fill(items, [[5.0, 6.0], [7.0, 8.0]], [noon, None])
    assert [item.series for item in filled] == [[5, 6], [1, 2], [7, 8]]
    assert task.read(filled)["last_time"].tolist() == [int(noon.timestamp()), 0, 0]
    with pytest.raises(RowNotFound, match="'a'"):
        task.fill(items, [[5.0, 6.0], None], [noon, None])
    with pytest.raises(BadTensor, match="no feature service"):
        make_task(feature_service="").entities(items)
    assert make_task(feature_service="").entities([History([1.0])]) == []


def test_quantiles_never_cross_and_stay_above_zero() -> None:
    task = make_task()
    raw = np.array([[[3, 1, 2], [-5, 0, 5], [1, 1, 1]]], np.float32)
    found = task.finish({"output": raw}, {"series": np.zeros((1, 4), np.float32)})
    assert found["forecast"].tolist() == [[[1, 2, 3], [0, 0, 5], [1, 1, 1]]]
    (item,) = task.write(found)
    assert item.quantiles == {"0.1": [1, 0, 1], "0.5": [2, 0, 1], "0.9": [3, 5, 1]}
    assert (item.horizon, item.step_seconds) == (3, 3600)
    assert b"scale" not in msgspec.json.encode(item)
    negative = make_task(non_negative=False).finish(
        {"forecast": raw}, {"series": np.zeros((1, 4), np.float32)}
    )
    assert negative["forecast"].min() == -5


def test_a_model_that_answers_nonsense_has_failed() -> None:
    inputs = {"series": np.zeros((1, 4), np.float32)}
    for wrong in (np.zeros((1, 3, 2), np.float32), np.full((1, 3, 3), np.nan, np.float32)):
        with pytest.raises(ModelFailed):
            make_task().finish({"output": wrong}, inputs)


def test_the_example_is_a_valid_call() -> None:
    task = make_task()
    decoded = msgspec.json.decode(msgspec.json.encode(task.example()), type=list[History])
    assert task.signature().check_inputs(task.read(decoded)) == 1


def write_hours(path: Path, values: list[Any], header: str = "time,a") -> Path:
    """A wide file of hourly values from Monday, 2 March 2026, 00:00."""
    begin = datetime(2026, 3, 2)  # noqa: DTZ001
    rows = [f"{(begin + timedelta(hours=i)).isoformat()},{v}" for i, v in enumerate(values)]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_samples_are_windows_with_truth_scale_and_tags(tmp_path: Path) -> None:
    samples = make_task().samples(write_hours(tmp_path / "a.csv", [i**2 for i in range(200)]))
    assert len(samples) == 200 - 4 - 3 + 1
    first = samples[3]  # begins at 03:00, forecasts from 07:00
    assert first.inputs["series"].tolist() == [[9, 16, 25, 36]]
    assert first.truth.quantiles == {"0.5": [49, 64, 81]}
    usual = 199.0  # mean change of the squares
    assert first.truth.scale == pytest.approx(max(9.0, 0.1 * usual))
    assert samples[150].truth.scale == pytest.approx(np.mean([301, 303, 305]))
    assert first.tags == {"series": "a", "part": "peak", "day": "weekday"}
    assert samples[20].tags["part"] == "night"  # 00:00 on Tuesday
    assert samples[8].tags["part"] == "day"  # noon
    assert samples[5 * 24].tags["day"] == "weekend"
    checked = make_task().signature().check_inputs(first.inputs)
    assert checked == 1 and first.inputs["last_time"].shape == (1,)


def test_a_series_that_stands_still_has_a_scale_to_divide_by(tmp_path: Path) -> None:
    samples = make_task().samples(write_hours(tmp_path / "a.csv", [5] * 20))
    assert {sample.truth.scale for sample in samples} == {1.0}


def test_a_long_file_gives_about_two_thousand_windows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    text = "\n".join(",".join(map(str, row)) for row in rng.integers(0, 9, (1200, 10)))
    path = tmp_path / "wide.csv"
    path.write_text(",".join(f"s{i}" for i in range(10)) + "\n" + text + "\n")
    samples = make_task().samples(path)
    assert 1_200 < len(samples) <= 2_000
    assert {sample.tags["series"] for sample in samples} == {f"s{i}" for i in range(10)}
    assert "part" not in samples[0].tags and "last_time" not in samples[0].inputs


def test_a_file_of_another_clock_or_too_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="every 3600 s"):
        make_task(step_seconds=300).samples(write_hours(tmp_path / "a.csv", list(range(50))))
    with pytest.raises(BadData, match="no 7 steps in a row"):
        make_task().samples(write_hours(tmp_path / "b.csv", [1, 2, 3, 4]))


def test_the_options_have_a_time_zone_of_the_world() -> None:
    options = ForecastingOptions.model_validate(OPTIONS | {"timezone": "Europe/Berlin"})
    summer = np.array([int(datetime(2026, 7, 1, 12, 0, tzinfo=UTC).timestamp())])
    winter = np.array([int(datetime(2026, 1, 1, 12, 0, tzinfo=UTC).timestamp())])
    assert (local_seconds(summer, options.zone) - summer).tolist() == [7200]
    assert (local_seconds(winter, options.zone) - winter).tolist() == [3600]


@pytest.mark.parametrize(
    ("head", "numbers", "law"),
    [
        ("point", [10.0], None),
        ("normal", [10.0, 2.0], norm(10, 2)),
        ("student-t", [3.0, 10.0, 2.0], t(3, 10, 2)),
    ],
)
def test_a_point_or_a_distribution_becomes_quantiles(head, numbers, law):
    levels = [0.05, 0.5, 0.95]
    found = to_quantiles(np.array([[numbers]], np.float32), head, levels)
    assert found.dtype == np.float32
    truth = law.ppf(levels).tolist() if law else [10.0] * 3
    assert found.tolist() == [[pytest.approx(truth, rel=1e-6)]]
    assert to_quantiles(found, "quantiles", levels) is found
