"""Series: CSV (also gzipped) or Parquet, wide or long, as one matrix on a regular clock.

Wide: a column a series, with a header; a first column called time, timestamp, date or datetime
holds times (ISO 8601 or unix seconds). Long: the columns `series,time,value`. An empty cell or a
missing step is a gap. Gaps of at most `MAX_FILL` steps are filled with the value before them when
they lie in a window's history; truths are never filled, and windows with longer gaps are skipped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from citybrain.core.errors import BadData
from citybrain.core.shelf import needs
from citybrain.core.tensors import Array
from citybrain.models.clock import DAY, LATEST

MAX_FILL = 3
MAX_CELLS = 200_000_000
TIME_COLUMNS = ("time", "timestamp", "date", "datetime")
LONG_COLUMNS = {"series", "time", "value"}


@dataclass
class SeriesTable:
    """`values` FP32[steps, series] with NaN in gaps; `times` are unix seconds or None."""

    names: list[str]
    values: Array
    times: Array | None
    step_seconds: int
    name: str

    def filled(self) -> Array:
        """The values, gaps of at most MAX_FILL steps filled with the value before them."""
        return fill_forward(self.values)

    def origins(self, context: int, horizon: int) -> Array:
        """INT64[n, 2]: series and first forecast step of each window without a long gap."""
        steps = len(self.values)
        if steps < context + horizon:
            return np.zeros((0, 2), np.int64)
        # Running counts of gaps tell in one subtraction whether a window holds one.
        history = _running(np.isnan(self.filled()))
        truth = _running(np.isnan(self.values))
        starts = np.arange(context, steps - horizon + 1)
        good = (history[starts] == history[starts - context]) & (
            truth[starts + horizon] == truth[starts]
        )
        series, places = np.nonzero(good.T)
        return np.stack([series, starts[places]], axis=1)

    def rolling(self, context: int, horizon: int, limit: int) -> Array:
        """At most about `limit` of the origins, evenly spread, the same at every call."""
        found = self.origins(context, horizon)
        stride = max(1, math.ceil(len(found) / limit))
        # A stride that shares a factor with the day would meet the same hours again and again.
        day = max(1, DAY // self.step_seconds)
        while stride > 1 and math.gcd(stride, day) > 1:
            stride += 1
        return found[::stride]


def fill_forward(values: Array, limit: int = MAX_FILL) -> Array:
    """Fill gaps down the first axis with the value before them, for at most `limit` steps."""
    filled = values.copy()
    gap = np.isnan(values)
    for back in range(1, limit + 1):
        if back >= len(values):
            break
        ready = gap[back:] & ~gap[:-back] & np.isnan(filled[back:])
        filled[back:][ready] = values[:-back][ready]
    # A gap longer than the limit stays one as a whole: its start must not pass for a history.
    return _restore_long(filled, gap, limit)


def _restore_long(filled: Array, gap: Array, limit: int) -> Array:
    for series in range(filled.shape[1]):
        column = np.concatenate([[False], gap[:, series], [False]]).astype(np.int8)
        change = np.flatnonzero(np.diff(column))
        for start, end in zip(change[::2], change[1::2], strict=True):
            if end - start > limit:
                filled[start:end, series] = np.nan
    return filled


def _running(flags: Array) -> Array:
    zero = np.zeros((1, flags.shape[1]), np.int64)
    return np.concatenate([zero, np.cumsum(flags, axis=0, dtype=np.int64)])


def read_series(path: Path, *, zone: ZoneInfo, step_seconds: int = 300) -> SeriesTable:
    """Read a file of series; `step_seconds` counts only for files without times."""
    frame = _read_frame(path)
    frame.columns = [str(name).strip() for name in frame.columns]
    if len(set(frame.columns)) != len(frame.columns):
        raise BadData(f"{path.name}:1: two columns have the same name.")
    if frame.empty or not len(frame.columns):
        raise BadData(f"{path.name} holds no rows.")
    if frame.size > MAX_CELLS:
        raise BadData(f"{path.name} holds more than {MAX_CELLS} values.")
    if {name.lower() for name in frame.columns} == LONG_COLUMNS:
        return _long(frame, path.name, zone)
    return _wide(frame, path.name, zone, step_seconds)


def _read_frame(path: Path) -> Any:
    with needs():
        import pandas as pd
    if not path.is_file():
        raise BadData(f"There is no file {path.name}.")
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
            named = str(frame.index.name or "").lower() in TIME_COLUMNS
            return frame.reset_index() if named else frame
        return pd.read_csv(path, encoding="utf-8-sig", skip_blank_lines=False, low_memory=False)
    except Exception as error:  # pandas, pyarrow and gzip raise a dozen kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise BadData(f"{path.name} cannot be read as a table: {reason}.") from error


def _wide(frame: Any, name: str, zone: ZoneInfo, step_seconds: int) -> SeriesTable:
    columns = list(frame.columns)
    if columns[0].lower() not in TIME_COLUMNS:
        return SeriesTable(columns, _numbers(frame, columns, name), None, step_seconds, name)
    if len(columns) < 2:
        raise BadData(f"{name}:1: there is no series beside {columns[0]!r}.")
    times = _times(frame[columns[0]], name, zone)
    values = _numbers(frame, columns[1:], name)
    twice = _duplicate(times)
    if twice is not None:
        raise BadData(f"{name}:{twice + 2}: this time occurs twice.")
    grid, places, step = _clock(times, name)
    matrix = np.full((len(grid), len(columns) - 1), np.nan, np.float32)
    matrix[places] = values
    return SeriesTable(columns[1:], matrix, grid, step, name)


def _long(frame: Any, name: str, zone: ZoneInfo) -> SeriesTable:
    frame.columns = [column.lower() for column in frame.columns]
    empty = np.flatnonzero(frame["series"].isna())
    if len(empty):
        raise BadData(f"{name}:{empty[0] + 2}: the series is empty.")
    labels = frame["series"].astype(str).to_numpy()
    times = _times(frame["time"], name, zone)
    values = _numbers(frame, ["value"], name)[:, 0]
    names, series = np.unique(labels, return_inverse=True)
    grid, places, step = _clock(times, name)
    if len(grid) * len(names) > MAX_CELLS:
        raise BadData(f"{name} holds more than {MAX_CELLS} values.")
    twice = _duplicate(series.astype(np.int64) * len(grid) + places)
    if twice is not None:
        raise BadData(f"{name}:{twice + 2}: this series has this time twice.")
    matrix = np.full((len(grid), len(names)), np.nan, np.float32)
    matrix[places, series] = values
    return SeriesTable([str(label) for label in names], matrix, grid, step, name)


def _numbers(frame: Any, columns: list[str], name: str) -> Array:
    """FP32[rows, columns], empty cells as NaN; BadData names the first cell of another kind."""
    import pandas as pd

    given = frame[columns]
    numbers = given.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    with np.errstate(over="ignore"):
        narrow = numbers.astype(np.float32)
    bad = np.argwhere((np.isnan(numbers) & given.notna().to_numpy()) | np.isinf(narrow))
    if len(bad):
        row, column = bad[0]
        raise BadData(
            f"{name}:{row + 2}: {columns[column][:80]} is not a finite number.",
            hint="Name a column of times 'time' and put it first; leave gaps empty.",
        )
    found: Array = narrow
    return found


def _times(column: Any, name: str, zone: ZoneInfo) -> Array:
    import pandas as pd

    if pd.api.types.is_numeric_dtype(column):
        seconds = column.to_numpy(np.float64)
    else:
        parsed = pd.to_datetime(column, format="ISO8601", errors="coerce", utc=False)
        if not pd.api.types.is_datetime64_any_dtype(parsed):  # more than one offset in the file
            parsed = pd.to_datetime(column, format="ISO8601", errors="coerce", utc=True)
        if parsed.dt.tz is None:
            first = np.ones(len(parsed), bool)  # an hour that occurs twice counts as the first
            parsed = parsed.dt.tz_localize(zone, ambiguous=first, nonexistent="shift_forward")
        parsed = parsed.dt.tz_convert("UTC").dt.tz_localize(None)
        nanoseconds = parsed.to_numpy("datetime64[ns]")
        seconds = nanoseconds.astype(np.int64) / 1e9
        seconds[np.isnat(nanoseconds)] = np.nan
    bad = np.flatnonzero(~((seconds > 0) & (seconds < LATEST)))
    if len(bad):
        raise BadData(
            f"{name}:{bad[0] + 2}: the time is neither ISO 8601 nor unix seconds.",
            hint="Write 2026-03-02T08:05:00.",
        )
    whole: Array = seconds.astype(np.int64)
    return whole


def _clock(times: Array, name: str) -> tuple[Array, Array, int]:
    """A regular clock over these times, each row's place on it, and its step in seconds."""
    unique = np.unique(times)
    if len(unique) < 2:
        raise BadData(f"{name} holds fewer than two different times.")
    gaps, counts = np.unique(np.diff(unique), return_counts=True)
    step = int(gaps[counts.argmax()])
    length = int((unique[-1] - unique[0]) // step) + 2
    if length > 20 * len(unique) + 10_000:
        raise BadData(f"{name} has rows every {step} s, and far too many of them are missing.")
    places = np.rint((times - unique[0]) / step).astype(np.int64)
    off = np.abs(times - unique[0] - places * step)
    bad = np.flatnonzero(off > step / 4)
    if len(bad):
        raise BadData(
            f"{name}:{bad[0] + 2}: most rows are {step} s apart, and this one lies between."
        )
    grid = unique[0] + step * np.arange(places.max() + 1, dtype=np.int64)
    return grid, places, step


def _duplicate(keys: Array) -> int | None:
    """The first row whose key was there before."""
    _, first = np.unique(keys, return_index=True)
    if len(first) == len(keys):
        return None
    seen = np.zeros(len(keys), bool)
    seen[first] = True
    return int(np.flatnonzero(~seen)[0])
