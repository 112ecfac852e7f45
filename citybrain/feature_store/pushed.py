"""Rows that somebody pushes: checked before they reach Feast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from citybrain.core.errors import BadData, TooLarge
from citybrain.core.tensors import Array
from citybrain.feature_store.definitions import HISTORY

MAX_ROWS = 10_000
MAX_VALUES = 10_000
AHEAD = timedelta(hours=1)
"""How far a clock may be ahead: a row from the far future would shut out all that follow."""


@dataclass(frozen=True)
class Pushed:
    """The last values of one sensor."""

    sensor: str
    values: Array
    last_time: datetime


def check_rows(rows: Sequence[Mapping[str, Any]]) -> list[Pushed]:
    """The rows, newest last and one a sensor; BadData names the first bad one."""
    if len(rows) > MAX_ROWS:
        raise TooLarge(f"One push takes at most {MAX_ROWS} rows, not {len(rows)}.")
    newest: dict[str, Pushed] = {}
    for index, row in enumerate(rows):
        found = _check(row, f"row {index}")
        known = newest.get(found.sensor)
        if known is None or known.last_time <= found.last_time:
            newest[found.sensor] = found
    return list(newest.values())


def _check(row: Mapping[str, Any], where: str) -> Pushed:
    if set(row) != {"sensor", "values", "last_time"}:
        raise BadData(f"{where}: the fields are sensor, values and last_time.")
    sensor, values = row["sensor"], row["values"]
    if not isinstance(sensor, str) or not 1 <= len(sensor) <= 200 or not sensor.isprintable():
        raise BadData(f"{where}: sensor must be a name of 1 to 200 printable characters.")
    try:
        with np.errstate(over="ignore"):
            numbers = np.asarray(values, dtype=np.float64).astype(np.float32)
    except (TypeError, ValueError):
        raise BadData(f"{where}: values must be a list of numbers.") from None
    if numbers.ndim != 1 or not 1 <= len(numbers) <= MAX_VALUES:
        raise BadData(f"{where}: values must be a list of 1 to {MAX_VALUES} numbers.")
    if not np.isfinite(numbers).all():
        raise BadData(f"{where}: values hold NaN or infinity.")
    return Pushed(sensor, numbers[-HISTORY:], _moment(row["last_time"], where))


def _moment(value: Any, where: str) -> datetime:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        if not isinstance(moment, datetime) or moment.tzinfo is None:
            raise ValueError
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadData(
            f"{where}: last_time must be a time with its offset.",
            hint="Write 2026-03-02T08:05:00+08:00.",
        ) from None
    if moment.year < 1970 or moment > datetime.now(UTC) + AHEAD:
        raise BadData(f"{where}: last_time lies before 1970 or in the future.")
    return moment.replace(microsecond=0)
