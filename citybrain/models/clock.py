"""Times of series: ISO 8601 to unix seconds, and the calendar as numbers for a network.

A time without an offset is local time of the algorithm's zone; 0 stands for "not known".
"""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np

from citybrain.core.errors import BadTensor
from citybrain.core.tensors import Array

DAY = 86_400
UNKNOWN = 0
LATEST = 7_258_118_400  # the year 2200: what lies beyond is milliseconds by mistake
DAY_WAVES = (1, 2, 3, 4)
WEEK_WAVES = (1, 2)
CALENDAR = 2 * (len(DAY_WAVES) + len(WEEK_WAVES)) + 2
"""Numbers a row: sine and cosine of each wave, weekend, and whether the time is known."""


def unix_seconds(text: str, zone: ZoneInfo) -> int:
    """An ISO 8601 time as unix seconds; BadTensor for anything else."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=zone)
        seconds = int(moment.timestamp())
    except (ValueError, OverflowError, OSError):
        raise BadTensor(
            f"{text[:40]!r} is not a time in ISO 8601.",
            hint="Write 2026-03-02T08:05:00+08:00.",
        ) from None
    check_seconds(seconds)
    return seconds


def check_seconds(seconds: int) -> None:
    """Refuse unix seconds before 1970 or after 2200."""
    if not UNKNOWN <= seconds < LATEST:
        raise BadTensor("A time must be unix seconds between the years 1970 and 2200.")


def local_seconds(times: Array, zone: ZoneInfo) -> Array:
    """Unix seconds shifted so that midnight and Monday are those of the zone."""
    hours = times // 3600  # offsets change on the hour at the earliest
    unique, places = np.unique(hours, return_inverse=True)
    shifts = [
        int(offset.total_seconds())
        for hour in unique.tolist()
        if (offset := datetime.fromtimestamp(hour * 3600, UTC).astimezone(zone).utcoffset())
        is not None
    ]
    local: Array = times + np.array(shifts, np.int64)[places.reshape(times.shape)]
    return local


def weekday(local: Array) -> Array:
    """Day of the week of local seconds, Monday 0 (1970-01-01 was a Thursday)."""
    days: Array = (local // DAY + 3) % 7
    return days


def calendar_features(times: Array, zone: ZoneInfo) -> Array:
    """FP32[n, CALENDAR] of unix seconds; a row of zeros where the time is unknown."""
    times = times.astype(np.int64)
    known = times != UNKNOWN
    local = local_seconds(times, zone)
    of_day = (local % DAY) / DAY
    of_week = (weekday(local) + of_day) / 7
    angles = [wave * of_day for wave in DAY_WAVES] + [wave * of_week for wave in WEEK_WAVES]
    turns = 2 * np.pi * np.stack(angles, axis=1)
    flags = np.stack([weekday(local) >= 5, known], axis=1)
    features = np.concatenate([np.sin(turns), np.cos(turns), flags], axis=1)
    features[~known] = 0.0
    found: Array = features.astype(np.float32)
    return found
