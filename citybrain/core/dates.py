"""Dates and moments that people type, read in the city's time zone."""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from citybrain.core.errors import InvalidInput


def read_moment(text: str, zone: ZoneInfo, *, end: bool = False) -> datetime:
    """`2026-11-20`, `2026-11-20T10:00` or with an offset; a bare date is its start, or its end."""
    text = re.sub(r" (\d\d:?\d\d)$", r"+\1", text.strip())  # a plus sign that a URL made a blank
    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
            day = date.fromisoformat(text) + timedelta(days=int(end))
            return datetime.combine(day, time(), zone)
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(
            f"{text[:40]!r} is not a date or a moment.",
            hint="Write 2026-11-20 or 2026-11-20T10:00, with an offset like +08:00 if you like.",
        ) from error
    return found if found.tzinfo else found.replace(tzinfo=zone)


def month_of(text: str, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """When `2026-11` begins and ends in the city."""
    if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", text) or text < "1970-02":
        raise InvalidInput(f"{text[:40]!r} is not a month.", hint="Write 2026-11.")
    begin = datetime(int(text[:4]), int(text[5:]), 1, tzinfo=zone)
    return begin, (begin + timedelta(days=32)).replace(day=1)
