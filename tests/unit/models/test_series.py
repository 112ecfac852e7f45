"""Files of series: both shapes, their clocks, their gaps, and the first bad line."""

from __future__ import annotations

import gzip
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from citybrain.core.errors import BadData
from citybrain.core.tensors import Array
from citybrain.models.datasets.series import MAX_FILL, SeriesTable, fill_forward, read_series

ZONE = ZoneInfo("Asia/Shanghai")
MONDAY = 1_772_380_800  # 2026-03-02T00:00:00+08:00


def read(path: Path, text: str) -> SeriesTable:
    """Write a file and read it as series."""
    path.write_text(text, encoding="utf-8")
    return read_series(path, zone=ZONE, step_seconds=600)


def test_a_wide_file_without_times_takes_the_step_it_is_told(tmp_path: Path) -> None:
    table = read(tmp_path / "a.csv", "\ufeff773869,b\n1,2\n3,\n5,6.5\n")
    assert table.names == ["773869", "b"]
    assert table.times is None and table.step_seconds == 600
    np.testing.assert_array_equal(table.values, np.array([[1, 2], [3, np.nan], [5, 6.5]], "f4"))


def test_an_empty_line_in_a_file_of_one_series_is_a_gap_and_not_nothing(tmp_path: Path) -> None:
    table = read(tmp_path / "a.csv", "a\n1\n\n3\n")
    np.testing.assert_array_equal(table.values[:, 0], [1, np.nan, 3])


@pytest.mark.parametrize("column", ["time", "Timestamp", "date", "datetime"])
def test_naive_times_are_local_and_missing_rows_become_gaps(tmp_path: Path, column: str) -> None:
    table = read(
        tmp_path / "a.csv",
        f"{column},a\n2026-03-02T00:00,1\n2026-03-02T00:10,2\n2026-03-02 00:05:00,9\n"
        "2026-03-02T00:20:00,3\n",
    )
    assert table.step_seconds == 300
    assert table.times is not None
    assert table.times.tolist() == [MONDAY + 300 * i for i in range(5)]
    np.testing.assert_array_equal(table.values[:, 0], [1, 9, 2, np.nan, 3])


def test_offsets_and_unix_seconds_mean_the_same_moment(tmp_path: Path) -> None:
    texts = [
        "time,a\n2026-03-01T16:00:00Z,1\n2026-03-02T00:05:00+08:00,2\n",
        f"time,a\n{MONDAY},1\n{MONDAY + 300},2\n",
    ]
    for text in texts:
        times = read(tmp_path / "a.csv", text).times
        assert times is not None and times.tolist() == [MONDAY, MONDAY + 300]


def test_a_long_file_gz_and_parquet_hold_the_same(tmp_path: Path) -> None:
    text = "series,time,value\nb,2026-03-02T01:00,4\na,2026-03-02T00:00,1\nb,2026-03-02T00:00,3\n"
    table = read(tmp_path / "long.csv", text)
    assert table.names == ["a", "b"] and table.step_seconds == 3600
    np.testing.assert_array_equal(table.values, np.array([[1, 3], [np.nan, 4]], "f4"))

    import pandas as pd

    (tmp_path / "l.csv.gz").write_bytes(gzip.compress(text.encode()))
    pd.read_csv(tmp_path / "long.csv").to_parquet(tmp_path / "l.parquet")
    wide = pd.DataFrame({"a": [1, None], "b": [3.0, 4.0]})
    wide.index = pd.DatetimeIndex(["2026-03-02T00:00", "2026-03-02T01:00"], name="time")
    wide.to_parquet(tmp_path / "w.parquet")
    for name in ("l.csv.gz", "l.parquet", "w.parquet"):
        other = read_series(tmp_path / name, zone=ZONE)
        np.testing.assert_array_equal(other.values, table.values)
        np.testing.assert_array_equal(other.times, table.times)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3,x\n", r"a\.csv:3: b is not a finite number"),
        ("a\n1\ninf\n", r"a\.csv:3: a is not a finite number"),
        ("a\n1\n1e300\n", r"a\.csv:3: a is not a finite number"),
        ("a,time\n1,2026-03-02\n", r"a\.csv:2: time is not a finite number"),
        ("time,a\n2026-03-02T00:00,1\n13/01/2026,2\n", r"a\.csv:3: the time is neither"),
        ("time,a\n2026-03-02T00:00,1\n,2\n", r"a\.csv:3: the time is neither"),
        ("time,a\n1772380800000,1\n1772380800300,1\n", r"a\.csv:2: the time is neither"),
        ("time,a\n2026-03-02,1\n2026-03-03,2\n2026-03-02,2\n", r"a\.csv:4: this time occurs twice"),
        ("time,a\n2026-03-02T00:00,1\n", "fewer than two"),
        ("time,a\n0001,1\n0301,1\n0601,1\n0751,1\n", r"a\.csv:5: most rows are 300 s apart"),
        ("time,a\n300,1\n301,1\n302,1\n99999999,1\n", "far too many"),
        ("time\n2026-03-02\n", r"a\.csv:1: there is no series"),
        ("series,time,value\na,2026-03-02,1\na,2026-03-02,1\na,2026-03-03,1\n", r"a\.csv:3: "),
        ("series,time,value\na,2026-03-02,1\n,2026-03-03,1\n", r"a\.csv:3: the series is empty"),
        ("a,b\n", "holds no rows"),
        ("a\n1,2,3\n4,5\n6,7,8,9\n", "cannot be read as a table"),
        ("", "cannot be read as a table"),
    ],
)
def test_the_first_bad_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadData, match=message) as caught:
        read(tmp_path / "a.csv", text)
    assert str(tmp_path) not in str(caught.value)


def test_a_missing_or_broken_file_is_bad_data(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    (tmp_path / "a.csv.gz").write_bytes(b"no gzip")
    for name in ("none.csv", "a.parquet", "a.csv.gz"):
        with pytest.raises(BadData, match=name) as caught:
            read_series(tmp_path / name, zone=ZONE)
        assert str(tmp_path) not in str(caught.value)


def column(*values: float) -> Array:
    """One series."""
    return np.array(values, np.float32)[:, None]


def test_short_gaps_are_filled_forward_and_long_ones_stay_whole() -> None:
    nan = np.nan
    short = [nan] * MAX_FILL
    np.testing.assert_array_equal(fill_forward(column(1, *short, 5))[:, 0], [1] * 4 + [5])
    long = column(1, *short, nan, 5)
    np.testing.assert_array_equal(fill_forward(long), long)
    first = column(nan, 2, nan)
    np.testing.assert_array_equal(fill_forward(first)[:, 0], [nan, 2, 2])


def test_windows_may_look_at_filled_gaps_and_never_score_them() -> None:
    values = column(*range(12))
    values[5] = np.nan
    table = SeriesTable(["a"], values, None, 300, "a")
    starts = table.origins(3, 2)[:, 1].tolist()
    assert starts == [3, 6, 7, 8, 9, 10]  # 4 and 5 would score step 5
    values[5:9] = np.nan  # longer than MAX_FILL: nothing may look at it either
    assert table.origins(3, 1)[:, 1].tolist() == [3, 4]
    assert len(table.origins(20, 1)) == 0


def test_a_strided_file_still_meets_every_hour_of_the_day() -> None:
    steps = 7 * 24 * 4
    table = SeriesTable(["a", "b"], np.ones((steps * 6, 2), np.float32), None, 900, "a")
    origins = table.rolling(4, 2, 800)
    assert 350 < len(origins) <= 800
    assert {int(start) % 96 // 4 for start in origins[:, 1]} == set(range(24))
    assert set(origins[:, 0].tolist()) == {0, 1}
    np.testing.assert_array_equal(origins, table.rolling(4, 2, 800))
