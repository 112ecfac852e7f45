"""Numbers, small drawings, snippets and the sign-in counter of the console."""

import ast

import pytest

from citybrain.core.schemas import UsageLine, UsageMinute
from citybrain.platform.console.attempts import Attempts
from citybrain.platform.console.door import local_path
from citybrain.platform.console.figures import (
    by_day,
    by_minute,
    heat_table,
    intervals,
    number,
    yuan,
)
from citybrain.platform.console.snippets import Example, curl, python_client, tritonclient


def line(department="tourism", algorithm="crowd-level", requests=1, day="2026-03-01", mean_ms=2.0):
    return UsageLine(
        day=day, department=department, algorithm=algorithm, version=1, requests=requests,
        failed=0, rows=requests, mean_ms=mean_ms,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0, "0"),
        (12345, "12,345"),
        (0.123456, "0.1235"),
        (1234.56, "1,235"),
        (1e-7, "1e-07"),
    ],
)
def test_numbers_are_short_and_never_nan(value, expected):
    assert number(value) == expected


@pytest.mark.parametrize(
    ("micros", "expected"),
    [
        (0, "¥0.00"),
        (10_000, "¥0.01"),
        (2_500, "¥0.0025"),
        (1, "¥0.000001"),
        (1_234_567_500_000, "¥1,234,567.50"),
        (-1_225_000, "-¥1.225"),
    ],
)
def test_money_has_two_decimals_or_as_many_as_it_needs(micros, expected):
    assert yuan(micros) == expected


def test_the_heat_table_puts_the_busiest_first_and_scales_by_decades():
    table = heat_table(
        [line(requests=1), line("traffic", "flow", 1000), line("traffic", requests=9)]
    )
    assert table.departments == ["traffic", "tourism"]
    assert table.algorithms == ["flow", "crowd-level"]
    assert table.level("traffic", "flow") == 6
    assert table.level("tourism", "flow") == 0
    assert 1 <= table.level("tourism", "crowd-level") < table.level("traffic", "crowd-level") < 6


def test_minutes_without_calls_are_zero_and_have_no_latency():
    spot = UsageMinute(minute=100, algorithm="a", requests=3, failed=1, p50_ms=1.0, p95_ms=5.0)
    other = UsageMinute(minute=100, algorithm="b", requests=2, failed=0, p50_ms=1.0, p95_ms=9.0)
    old = UsageMinute(minute=2, algorithm="b", requests=2, failed=0, p50_ms=1.0, p95_ms=9.0)
    found = by_minute([old, spot, other], until=101, last=3)
    assert found == {
        "x": [99 * 60, 100 * 60, 101 * 60], "requests": [0, 5, 0], "failed": [0, 1, 0],
        "ms": [None, 9.0, None],
    }  # fmt: skip


def test_days_weigh_latency_by_requests():
    found = by_day([line(requests=1, mean_ms=10.0), line(requests=3, mean_ms=2.0)], ["2026-03-01"])
    assert found["ms"] == [4.0]


def test_interval_bars_stay_within_the_drawing_whatever_the_report_says():
    report = {
        "metrics": {
            "f1": {"value": 0.9, "low": 0.8, "high": 0.95, "greater_is_better": 1.0},
            "mae": {"value": 12.0, "low": 11.0, "high": None, "greater_is_better": 0.0},
            "odd": {"value": float("nan"), "low": None, "high": None},
            "minus": {"value": -3.0, "low": -4.0, "high": -2.0, "greater_is_better": 1.0},
        },
        "baseline": {"name": "majority", "metrics": {"f1": 0.2, "mae": 30.0}},
        "champion": {"f1": 0.91},
    }
    found = {bar.name: bar for bar in intervals(report)}
    assert all(0 <= place <= 100 for bar in found.values() for place in bar.at.values())
    assert found["f1"].at["value"] == 90.0
    assert found["odd"].at == {}
    assert intervals({}) == []


def test_the_counter_refuses_after_too_many_and_forgives_with_time(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("citybrain.platform.console.attempts.time.monotonic", lambda: now[0])
    counter = Attempts(most=2, window=60, addresses=2)
    for _ in range(2):
        assert counter.wait("a") == 0
        counter.fail("a")
    assert counter.wait("a") == 61
    assert counter.wait("b") == 0
    now[0] += 61
    assert counter.wait("a") == 0


def test_the_counter_keeps_no_more_addresses_than_it_may():
    counter = Attempts(most=1, addresses=3)
    for name in "abcdef":
        counter.fail(name)
    assert counter.wait("a") == 0
    assert counter.wait("f") > 0


@pytest.mark.parametrize(
    "wanted",
    ["//evil.example", "/\\evil.example", "https://evil.example", "", "x", "/a\r\nb", "/\t/x"],
)
def test_a_way_back_never_leaves_this_site(wanted):
    assert local_path(wanted) == "/"


EXAMPLES = [
    ("", [{"text": "路灯'坏\"了"}], [("text", "BYTES")]),
    ("image", [{"image": "AAAA"}], [("image", "BYTES")]),
    ("audio", [{"audio": "AAAA"}], [("audio", "FP32"), ("sample_rate", "INT32"), ("length", "INT32")]),
    ("", [{"series": [1.0] * 300, "last_time": "2026-03-02T08:05:00+08:00"}], [("series", "FP32"), ("last_time", "INT64")]),
    ("", [{"features": {"hour": 7.0, "month": 3.0}}], [("features", "FP32")]),
    ("", [{"tensors": {"x": [1, 2], "on": [True], "s": ["t"]}}], [("x", "INT64"), ("on", "BOOL"), ("s", "BYTES")]),
]  # fmt: skip


@pytest.mark.parametrize(("media", "inputs", "specs"), EXAMPLES)
def test_snippets_are_valid_python_and_send_what_the_task_needs(media, inputs, specs):
    signature = {
        "inputs": [{"name": name, "datatype": kind, "shape": [-1]} for name, kind in specs],
        "outputs": [{"name": "label", "datatype": "BYTES", "shape": [-1]}],
    }
    example = Example("some-name", media, {"inputs": inputs}, signature, "http://127.0.0.1:8080")
    for snippet in (python_client(example), tritonclient(example)):
        ast.parse(snippet)
    assert "last_time" not in tritonclient(example)
    assert '"length"' not in tritonclient(example)
    assert "/v1/algorithms/some-name/predict" in curl(example)
    assert len(curl(example)) < 1500


@pytest.mark.parametrize(("media", "inputs", "specs"), EXAMPLES)
def test_a_snippet_of_a_grant_says_its_purpose_and_finds_its_key(media, inputs, specs):
    signature = {"inputs": [], "outputs": []}
    example = Example(
        "some-name", media, {"inputs": inputs}, signature, "http://127.0.0.1:8080", "research",
        'os.environ["CITYBRAIN_KEY"]',
    )  # fmt: skip
    snippet = python_client(example)
    ast.parse(snippet)
    assert snippet.startswith("import ") and "import os\n" in snippet
    assert 'purpose="research")' in snippet and ', os.environ["CITYBRAIN_KEY"])' in snippet
    assert '-H "X-Purpose: research"' in curl(example)
