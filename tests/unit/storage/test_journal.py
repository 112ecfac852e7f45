"""The journal and its loader: each call once, whatever is torn or repeated."""

from zoneinfo import ZoneInfo

import orjson
import pytest

from citybrain.storage import journal
from citybrain.storage.database import Database
from citybrain.storage.journal import (
    Admitted,
    JournalWriter,
    Settled,
    is_finished,
    journals,
)
from citybrain.storage.records.usage import BUCKETS, Usage, percentile

HOUR = 3_600_000


@pytest.fixture
def usage(tmp_path):
    database = Database.at(tmp_path / "platform.db")
    database.migrate()
    return Usage(database, ZoneInfo("Asia/Shanghai"))


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / "journal"
    found.mkdir()
    return found


def admitted(number, at=0):
    return Admitted(f"{number:032x}", at, "k", "traffic", "flow", "operation", "task")


def settled(number, at=0, status=200, rows=2):
    return Settled(*admitted(number, at), 3, status, rows, 1500)


def test_answered_calls_are_counted_once_and_a_second_load_adds_nothing(usage, folder):
    writer = JournalWriter(folder)
    for n in range(5):
        writer.admit(admitted(n))
        writer.settle(settled(n, status=200 if n else 422))
    writer.flush()
    assert usage.load(folder) == 5
    assert usage.load(folder) == 0
    (line,) = usage.days()
    assert (line.requests, line.failed, line.rows, line.version) == (5, 1, 8, 3)
    assert usage.request(f"{1:032x}")["state"] == "SERVED"
    assert usage.request(f"{0:032x}")["state"] == "FAILED"
    assert usage.request("x") is None


def test_days_are_those_of_the_citys_time_zone(usage, folder):
    writer = JournalWriter(folder)
    writer.settle(settled(1, at=15 * HOUR))  # 23:00 in Shanghai on 1 January 1970
    writer.settle(settled(2, at=17 * HOUR))  # 01:00 on the 2nd
    writer.flush()
    usage.load(folder)
    assert [line.day for line in usage.days()] == ["1970-01-02", "1970-01-01"]


def test_a_killed_writer_leaves_void_rows_for_what_it_had_not_answered(usage, folder):
    writer = JournalWriter(folder)
    writer.admit(admitted(1))
    writer.admit(admitted(2))
    writer.settle(settled(1))
    writer.close()
    usage.load(folder)
    assert usage.request(f"{2:032x}")["state"] == "VOID"
    assert list(journals(folder)) == []
    assert sum(line.requests for line in usage.days()) == 1


def test_an_answer_that_arrives_in_the_next_file_replaces_the_void_row(usage, folder):
    first = JournalWriter(folder)
    first.admit(admitted(1))
    first.close()
    usage.load(folder)
    second = JournalWriter(folder)
    second.settle(settled(1))
    second.flush()
    usage.load(folder)
    assert usage.request(f"{1:032x}")["state"] == "SERVED"
    assert sum(line.requests for line in usage.days()) == 1


def test_the_same_line_twice_is_one_call(usage, folder):
    writer = JournalWriter(folder)
    writer.settle(settled(1))
    writer.settle(settled(1))
    writer.flush()
    usage.load(folder)
    assert sum(line.requests for line in usage.days()) == 1


def test_a_torn_last_line_waits_until_it_is_whole(usage, folder):
    writer = JournalWriter(folder)
    writer.settle(settled(1))
    writer.flush()
    line = orjson.dumps(("S", *settled(2))) + b"\n"
    path = next(journals(folder))
    with path.open("ab") as file:
        file.write(line[:40])
    usage.load(folder)
    assert usage.request(f"{2:032x}") is None
    with path.open("ab") as file:
        file.write(line[40:])
    usage.load(folder)
    assert usage.request(f"{2:032x}")["state"] == "SERVED"


def test_a_living_writer_holds_its_file_and_a_closed_one_lets_go(folder):
    writer = JournalWriter(folder)
    path = next(journals(folder))
    assert not is_finished(path)
    writer.close()
    assert is_finished(path)


def test_a_long_file_is_followed_by_a_new_one(folder, monkeypatch):
    monkeypatch.setattr(journal, "ROTATE_BYTES", 100)
    writer = JournalWriter(folder)
    writer.settle(settled(1))
    writer.settle(settled(2))
    writer.flush()
    assert writer.unsynced is not None
    writer.synced()
    assert len(list(journals(folder))) == 2


def test_percentiles_come_from_the_histogram():
    latency = [0] * (len(BUCKETS) + 1)
    latency[10], latency[20] = 95, 5
    assert percentile(latency, 0.5) == BUCKETS[10]
    assert percentile(latency, 0.95) == BUCKETS[10]
    assert percentile(latency, 0.99) == BUCKETS[20]
    assert percentile([0] * len(latency), 0.5) == 0.0


def test_a_long_stretch_of_admitted_lines_hides_no_settled_one(usage, folder, monkeypatch):
    """A finished journal is read to its end before it is deleted, whatever a read holds."""
    from citybrain.storage.records import usage as module

    def small(path, offset, **options):
        return journal.read_calls(path, offset, **{"limit": 400, **options})

    monkeypatch.setattr(module, "read_calls", small)
    writer = JournalWriter(folder)
    for n in range(20):
        writer.admit(admitted(n))
    for n in range(20):
        writer.settle(settled(n))
    writer.close()
    assert usage.load(folder) == 20
    assert list(folder.iterdir()) == []


def test_a_torn_line_and_one_of_other_types_cost_no_neighbour(usage, folder):
    writer = JournalWriter(folder)
    for n in range(6):
        writer.settle(settled(n, rows=2.5 if n == 2 else 2))
    writer.flush()
    (path,) = journals(folder)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[4] = lines[4][: len(lines[4]) // 2] + b"\n"  # by a power loss
    path.write_bytes(b"".join(lines))
    assert usage.load(folder) == 5
    assert usage.request(f"{2:032x}")["state"] == "SERVED"
    assert usage.request(f"{4:032x}") is None


def test_calls_that_are_all_known_already_stop_no_loader(usage, folder):
    for numbers in (range(3), range(3), range(2, 5)):
        writer = JournalWriter(folder)
        for n in numbers:
            writer.settle(settled(n))
        writer.flush()
        usage.load(folder)
    assert sum(line.requests for line in usage.days()) == 5
