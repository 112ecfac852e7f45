"""What Prometheus reads is what the ledger holds, each call once, however often a journal is read."""

import os
from zoneinfo import ZoneInfo

import pytest
from prometheus_client.parser import text_string_to_metric_families

from citybrain.platform import metrics as module
from citybrain.platform.metrics import Metrics
from citybrain.serving.gateway.lengths import LengthBook, lengths_in
from citybrain.storage.database import Database
from citybrain.storage.journal import JournalWriter, Refusal, Settled
from citybrain.storage.records.usage import Usage


def settled(number, status=200, version=1, micros=3000, department="health", **more):
    return Settled(
        f"{number:032x}", 1_772_400_000_000, "k", department, "flow", "operation", "task", version,
        status, 2, micros, 500, 2000, 4, wait_micros=100, model_micros=1500,
    )._replace(**more)  # fmt: skip


def samples(metrics):
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def test_every_call_of_the_ledger_is_counted_once(tmp_path):
    database, metrics = Database.at(tmp_path / "platform.db"), Metrics()
    database.migrate()
    usage = Usage(database, ZoneInfo("Asia/Shanghai"), metrics.count)
    folder = tmp_path / "journal"
    folder.mkdir()
    journal = JournalWriter(folder)
    for number in range(10):
        journal.settle(settled(number))
    for number in (3, 4):  # a second line of a call, as after a gateway's death
        journal.settle(settled(number))
    journal.settle(settled(20, status=500))
    journal.flush()
    usage.load(folder)
    usage.load(folder)
    found = samples(metrics)
    assert found["citybrain_calls_total", "1", "2xx", "flow", "health"] == 10
    assert found["citybrain_calls_total", "1", "5xx", "flow", "health"] == 1
    assert found["citybrain_rows_total", "1", "flow", "health"] == 22
    assert found["citybrain_call_seconds_count", "1", "flow", "health"] == 11
    assert found["citybrain_frame_calls_bucket", "1", "2.0", "flow", "health"] == 0
    assert found["citybrain_frame_calls_bucket", "1", "4.0", "flow", "health"] == 10
    for name, total in (("queue", 5), ("way", 4), ("wait", 1), ("work", 20), ("model", 15)):
        assert found[f"citybrain_{name}_seconds_count", "1", "flow", "health"] == 10
        assert found[f"citybrain_{name}_seconds_sum", "1", "flow", "health"] == pytest.approx(
            total / 1e3
        )


def test_jobs_and_pipelines_say_nothing_of_how_replicas_serve_callers():
    metrics = Metrics()
    pipeline = settled(2, version=2, work_micros=0, queue_micros=0)
    metrics.count([settled(1, door="job"), pipeline])
    found = samples(metrics)
    assert found["citybrain_calls_total", "1", "2xx", "flow", "health"] == 1
    assert found["citybrain_call_seconds_count", "1", "flow", "health"] == 0
    assert found["citybrain_call_seconds_count", "2", "flow", "health"] == 1
    assert found["citybrain_way_seconds_count", "2", "flow", "health"] == 0


def test_calls_that_wait_in_any_gateway_are_told(tmp_path):
    metrics, lines = Metrics(), {("flow", "champion"): 7}
    metrics.watch(list, dict, lambda: lengths_in(tmp_path / "lengths"))
    waiting = lambda: samples(metrics).get(("citybrain_waiting_calls", "champion", "flow"))
    assert waiting() is None
    book = LengthBook(tmp_path / "lengths", lambda: lines)
    book.write()
    (tmp_path / "lengths" / "1.json").write_bytes(b'[["flow","champion",3]]')
    (tmp_path / "lengths" / "2.json").write_bytes(b'[["flow",')
    assert waiting() == 10
    os.utime(tmp_path / "lengths" / "1.json", (1, 1))
    assert waiting() == 7, "a gateway that was killed says nothing"
    lines.clear()
    book.write()
    assert waiting() is None


def test_labels_stay_bounded_however_many_versions_and_departments_call(monkeypatch):
    most, rest = 60, 20
    monkeypatch.setattr(module, "MOST_SERIES", most)
    monkeypatch.setattr(module, "MOST_REST", rest)
    metrics = Metrics()
    metrics.count([settled(n, status=status) for n, status in enumerate((200, 404, 422, 429, 503))])
    names = {key for key in samples(metrics) if key[0] == "citybrain_calls_total"}
    assert {key[2] for key in names} == {"2xx", "4xx", "5xx"}
    many = [
        settled(1, version=version, department=f"d{d}", algorithm=f"a{algorithm}")
        for algorithm in range(100) for version in range(3) for d in range(4)
    ]  # fmt: skip
    metrics.count(many)
    found = samples(metrics)
    histograms = [key for key in found if key[0] == "citybrain_call_seconds_count"]
    assert len(histograms) == most + rest + 1
    assert sum(found[key] for key in histograms) == len(many) + 5, "and no call is forgotten"
    assert found["citybrain_calls_total", "2xx", "a10", "other", "other"] == 12
    assert found["citybrain_calls_total", "2xx", "other", "other", "other"] > 0
    metrics.count(many)
    assert len([k for k in samples(metrics) if k[0] == histograms[0][0]]) == len(histograms)


def test_refused_calls_are_counted_and_leave_no_row(tmp_path):
    database, metrics = Database.at(tmp_path / "platform.db"), Metrics()
    database.migrate()
    usage = Usage(database, ZoneInfo("Asia/Shanghai"), metrics.count, metrics.count_refused)
    folder = tmp_path / "journal"
    folder.mkdir()
    journal = JournalWriter(folder)
    journal.settle(settled(1))
    for calls in (2_000, 500):
        journal.refuse(Refusal(1_772_400_000_000, "health", "flow", 1, "overloaded", calls))
    journal.refuse(Refusal(1_772_400_000_000, "", "", 0, "head_too_large", 3))
    journal.close()
    assert usage.load(folder) == 1
    assert usage.load(folder) == 0
    found = samples(metrics)
    assert found["citybrain_refused_total", "flow", "health", "overloaded"] == 2_500
    assert found["citybrain_refused_total", "", "", "head_too_large"] == 3
    assert found["citybrain_calls_total", "1", "2xx", "flow", "health"] == 1
    assert [line.requests for line in usage.days()] == [1]
