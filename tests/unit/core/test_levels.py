"""Levels are in order, and dates are read as people mean them."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from citybrain.core.dates import read_moment
from citybrain.core.errors import InvalidInput
from citybrain.core.levels import Level

CITY = ZoneInfo("Asia/Shanghai")


def test_levels_are_in_order_and_not_in_alphabetical_order():
    assert [level.value for level in sorted(Level)] == [
        "public",
        "internal",
        "sensitive",
        "personal",
    ]
    assert Level.PERSONAL > Level.SENSITIVE > Level.INTERNAL > Level.PUBLIC
    assert Level.PERSONAL >= Level.PERSONAL <= Level.PERSONAL
    assert not Level.PERSONAL < Level.PUBLIC
    assert max(Level) is Level.PERSONAL
    assert Level("internal") == "internal"
    with pytest.raises(ValueError):
        assert Level.PUBLIC < "secret"


@pytest.mark.parametrize(
    ("text", "end", "expected"),
    [
        ("2026-11-20", False, "2026-11-19T16:00"), ("2026-11-20", True, "2026-11-20T16:00"),
        ("2026-11-20T10:00", True, "2026-11-20T02:00"),
        ("2026-11-20T10:00+00:00", False, "2026-11-20T10:00"),
        ("2026-11-20T10:00 01:00", False, "2026-11-20T09:00"),
        ("2026-11-20T10:00Z", False, "2026-11-20T10:00"),
    ],
)  # fmt: skip
def test_a_moment_is_the_citys_unless_it_says_otherwise(text, end, expected):
    wanted = datetime.fromisoformat(expected).replace(tzinfo=UTC)
    assert read_moment(text, CITY, end=end) == wanted


@pytest.mark.parametrize("text", ["", "soon", "2026-02-30", "20261120T99", "9999-12-31"])
def test_what_is_no_moment_is_refused(text):
    with pytest.raises(InvalidInput):
        read_moment(text, CITY, end=True)
