"""What a split drew where, counted exactly and kept small."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from citybrain.storage.database import Database
from citybrain.storage.journal import JournalWriter, Settled
from citybrain.storage.records import draws
from citybrain.storage.records.draws import Arm, Draws
from citybrain.storage.records.usage import Usage

BEGAN = datetime(2026, 3, 2, tzinfo=UTC)
FIRST = int(BEGAN.timestamp()) + 1


class Books:
    """A journal, the ledger that is loaded from it, and what was drawn."""

    def __init__(self, folder):
        self.database = Database.at(folder / "platform.db")
        self.database.migrate()
        self.folder = folder / "journal"
        self.folder.mkdir()
        self.journal = JournalWriter(self.folder)
        self.usage = Usage(self.database, ZoneInfo("UTC"))
        self.number = 0

    def call(self, version, drawn, status, micros=5000, second=FIRST, answer=200, door="task"):
        """A call that `version` answered, and how it went where a split drew it to."""
        self.number += 1
        self.journal.settle(
            Settled(
                f"{self.number:032x}",
                second * 1000,
                "k",
                "health",
                "flow",
                "operation",
                door,
                version,
                answer,
                1,
                7000,
                0,
                0,
                1,
                drawn,
                status,
                micros if drawn else 0,
            )  # fmt: skip
        )

    def arms(self, since=BEGAN, until=None):
        self.journal.flush()
        self.usage.load(self.folder)
        return Draws(self.database).arms("flow", since, until)


@pytest.fixture
def books(tmp_path):
    return Books(tmp_path)


def test_only_what_a_split_drew_is_judged(books):
    books.call(7, 7, 200, 4000)
    books.call(7, 7, 500, answer=500)
    books.call(7, 7, 422, answer=422)  # wrong input counts for nobody
    books.call(7, 0, 0)  # named the version
    books.call(7, 0, 0, door="job")
    books.call(2, 7, 503)  # a fallback answered
    books.call(2, 2, 200, 1000)
    found = books.arms()
    assert found == {7: Arm(3, 2, 4.0, 4.0, (4.0,)), 2: Arm(1, 0, 1.0, 1.0, (1.0,))}
    assert books.arms() == found, "a second look adds nothing"
    assert sum(line.requests for line in books.usage.days()) == books.number
    assert sum(line.failed for line in books.usage.days()) == 2


def test_a_line_of_an_older_gateway_was_drawn_by_nobody(books):
    old = Settled(
        *(f"{1:032x}", FIRST * 1000, "k", "health", "flow", "operation", "task", 7, 200, 1, 9)
    )
    books.journal._lines.append(b'["S",' + b",".join(
        f'"{v}"'.encode() if isinstance(v, str) else str(v).encode() for v in old[:14]) + b"]")  # fmt: skip
    assert books.arms() == {}
    assert books.usage.request(old.request_id)["state"] == "SERVED"


def test_a_window_has_whole_seconds_only(books):
    for second in range(5):
        books.call(7, 7, 200, second=FIRST + second)
    at = lambda second: datetime.fromtimestamp(FIRST + second, UTC)
    assert books.arms()[7].calls == 5
    assert books.arms(since=at(1))[7].calls == 3, "not those of the second in which it begins"
    assert books.arms(until=at(2))[7].calls == 3, "a split ended in that second"
    assert books.arms(since=at(4)) == {}


def test_counts_are_exact_and_latencies_are_a_fair_part_of_many(books, monkeypatch):
    monkeypatch.setattr(draws, "TIMED", 300)
    for second in range(12):
        busy = second % 2
        for _ in range(400 if busy else 40):
            books.call(7, 7, 200, 9000 if busy else 1000, second=FIRST + second)
        books.call(2, 2, 500, second=FIRST + second)
    found = books.arms()
    assert found[7].calls == 6 * 440
    assert found[2][:2] == (12, 12)
    took = found[7].took_ms
    # Nine tenths of the calls were in busy seconds, of each of which fifty latencies are kept.
    assert 200 <= len(took) <= 300
    assert took.count(9.0) / len(took) == pytest.approx(10 / 11, abs=0.06)


def test_what_is_older_than_a_week_is_forgotten(books):
    books.call(7, 7, 200)
    books.arms()
    books.call(7, 7, 200, second=FIRST + 8 * 86_400)
    assert books.arms()[7].calls == 1
