"""Batch jobs without a platform: opening what is handed in, results, turns, pace."""

import asyncio
import time
import zipfile
from datetime import UTC, datetime
from types import SimpleNamespace

import msgspec
import pyarrow as pa
import pytest
from pyarrow import parquet

from citybrain.core.errors import BadData, NotReady, TooLarge
from citybrain.core.settings import JobSettings, ServingSettings
from citybrain.models.package import Manifest
from citybrain.models.task import TASKS, open_task
from citybrain.serving.jobs import columns
from citybrain.serving.jobs.folder import JobFolder
from citybrain.serving.jobs.opening import fields_of, kind_of, open_input
from citybrain.serving.jobs.runner import DEATHS, Row, Runner, Stopped, Trouble
from citybrain.serving.wire import Call, FrameLost, Reply, Served

FIELDS = {"features": "json"}


def opened(tmp_path, kind, data, *, names=("rows",), fields=FIELDS, wrap="features", **more):
    """The lines that the sandbox's step leaves of an upload, as it does it."""
    (tmp_path / "upload").mkdir()
    for number, content in enumerate(data if isinstance(data, list) else [data]):
        (tmp_path / "upload" / f"{number:06d}").write_bytes(content)
    request = {"kind": kind, "names": list(names), "chunk": 3, "fields": fields, "wrap": wrap,
               "max_rows": 100, "max_line": 200} | more  # fmt: skip
    answer = open_input(tmp_path, request)
    chunks = sorted((tmp_path / "in").iterdir())
    return answer, [line for path in chunks for line in path.read_bytes().splitlines()]


def test_lines_become_rows_in_chunks_and_blank_ends_are_none(tmp_path):
    data = b'\xef\xbb\xbf{"a":1}\n\n{"a":2}\r\n?\n{"a":4}\n\n\n'
    _, lines = opened(tmp_path, "jsonl", data)
    assert lines[0] == b'i{"a":1}'
    assert lines[1].startswith(b"e") and b"empty" in lines[1]
    assert lines[2:] == [b'i{"a":2}', b"i?", b'i{"a":4}']
    assert sorted(p.name for p in (tmp_path / "in").iterdir()) == ["000000.jsonl", "000001.jsonl"]


def test_a_line_without_end_is_refused_with_its_number(tmp_path):
    answer, _ = opened(tmp_path, "jsonl", b"{}\n" + b"x" * 500, names=["rows.jsonl"])
    assert "rows.jsonl:2" in answer["too_large"]


def test_more_rows_than_allowed_are_refused(tmp_path):
    answer, _ = opened(tmp_path, "jsonl", b"{}\n" * 101)
    assert "at most 100 rows" in answer["too_large"]


def test_a_tables_columns_are_the_features_of_a_row(tmp_path):
    _, lines = opened(tmp_path, "csv", "hour,rain\n7,0.5\n8\n9,\n10,wet\n".encode("utf-8-sig"))
    assert lines[0] == b'i{"features":{"hour":7,"rain":0.5}}'
    assert lines[1].startswith(b"e") and b"1 cells where the header has 2" in lines[1]
    assert lines[2] == b'i{"features":{"hour":9}}'
    assert lines[3] == b'i{"features":{"hour":10,"rain":"wet"}}'


def test_a_text_stays_a_text_even_if_it_looks_like_a_number(tmp_path):
    data = '"text"\n119\n"第一行\n第二行"\n'.encode()
    fields, wrap = fields_of(TASKS.get("text-classification").Input)
    _, lines = opened(tmp_path, "csv", data, fields=fields, wrap=wrap)
    assert lines == [b'i{"text":"119"}', 'i{"text":"第一行\\n第二行"}'.encode()]


def test_an_empty_cell_is_a_field_that_is_not_there(tmp_path):
    fields, wrap = fields_of(TASKS.get("forecasting").Input)
    data = b'series,entity,last_time\n"[1, 2.5]",,\n,sensor-1,2026-01-01\n'
    _, lines = opened(tmp_path, "csv", data, fields=fields, wrap=wrap)
    assert lines[0] == b'i{"series":[1,2.5]}'
    assert lines[1] == b'i{"entity":"sensor-1","last_time":"2026-01-01"}'


def test_unknown_columns_are_named(tmp_path):
    with pytest.raises(BadData, match="mood"):
        opened(tmp_path, "csv", b"text,mood\na,b\n", fields={"text": "text"}, wrap="")


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "no header"), (b"a,a\n1,2\n", "twice"), (b"a\n\xff\xfe\n", "UTF-8"),
     (b'a\n"open', "rows.csv:2"), (b"a\n" + b"1" * 300, "rows.csv:2")],
)  # fmt: skip
def test_a_broken_table_is_refused_with_a_reason(data, reason, tmp_path):
    with pytest.raises(BadData, match=reason):
        opened(tmp_path, "csv", data, names=["rows.csv"])


def test_a_parquet_table_gives_the_same_rows(tmp_path):
    file = pa.BufferOutputStream()
    parquet.write_table(pa.table({"hour": [7, None, 9], "rain": [0.5, 1.0, None]}), file)
    _, lines = opened(tmp_path, "parquet", file.getvalue().to_pybytes())
    rows = [msgspec.json.decode(line[1:])["features"] for line in lines]
    assert rows == [{"hour": 7, "rain": 0.5}, {"rain": 1.0}, {"hour": 9}]


def test_what_is_no_parquet_is_refused(tmp_path):
    with pytest.raises(BadData, match="cannot be read as Parquet"):
        opened(tmp_path, "parquet", b"PAR1 and nothing")


def test_files_of_an_archive_are_rows_by_name(tmp_path):
    path = tmp_path / "made"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("b.jpg", "day/a.jpg", "__MACOSX/b.jpg", ".DS_Store"):
            archive.writestr(name, name)
    _, lines = opened(tmp_path, "zip", path.read_bytes())
    told = [msgspec.json.decode(line[1:]) for line in lines]
    assert [row["name"] for row in told] == ["b.jpg", "day/a.jpg"]
    assert JobFolder(tmp_path).media(told[1]["file"]) == b"day/a.jpg"


def test_a_path_out_of_the_archive_is_refused(tmp_path):
    path = tmp_path / "made"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../outside.jpg", "x")
    with pytest.raises(Exception, match="outside"):
        opened(tmp_path, "zip", path.read_bytes())
    assert not (tmp_path / "outside.jpg").exists()
    assert not (tmp_path.parent / "outside.jpg").exists()


def test_the_kind_of_an_upload_is_told_by_its_name():
    assert kind_of(["Rows.CSV"], "") == "csv"
    assert kind_of(["a.zip"], "image") == "zip"
    assert kind_of(["a.jpg", "b.jpg"], "image") == "files"
    for names in (["a.zip"], ["a.xlsx"], ["a.csv", "b.csv"]):
        with pytest.raises(BadData, match="not handed in as"):
            kind_of(names, "")


@pytest.mark.parametrize("name", TASKS.names())
def test_answers_of_every_task_have_columns(name):
    found = columns.schema(TASKS.get(name).Output)
    assert found.names[:3] == ["row", "name", "version"]
    assert len(set(found.names)) == len(found.names)


def test_parts_become_one_table_with_answers_and_errors(tmp_path):
    folder, output = JobFolder(tmp_path), TASKS.get("object-detection").Output
    (tmp_path / "in").mkdir()
    one = {"row": 1, "name": "a.jpg", "version": 3, "output": {
        "objects": [{"label": "car", "score": 0.5, "box": [1, 2, 3, 4.5]}], "width": 8, "height": 9,
    }}  # fmt: skip
    two = {"row": 2, "name": "b.jpg", "error": {"code": "bad_media", "message": "no image"}}
    folder.write(0, 1, 3, 10, 1.0, msgspec.json.encode(one) + b"\n")
    folder.write(1, 0, 3, 10, 0.0, msgspec.json.encode(two) + b"\n")
    assert folder.part(0)[:4] == (0, 1, 3, 10)
    folder.close("parquet", output)
    folder.close("parquet", output)
    assert [p.name for p in tmp_path.iterdir()] == ["result.parquet"]
    rows = parquet.read_table(folder.result("parquet")).to_pylist()
    assert rows[0]["objects"] == [{"label": "car", "score": 0.5, "box": [1, 2, 3, 4.5]}]
    assert (rows[0]["width"], rows[0]["error"]) == (8, None)
    assert (rows[1]["row"], rows[1]["error_code"], rows[1]["width"]) == (2, "bad_media", None)


class Lane:
    """A replica that answers 1 ms a row, remembers frames, and dies of what it is told."""

    def __init__(self, deadly=()):
        self.frames, self.deadly = [], deadly

    def idlest(self, _):
        return self

    async def send(self, calls):
        bodies = [call.body for call in calls]
        self.frames.append(bodies)
        if set(bodies) & set(self.deadly):
            raise FrameLost
        replies = [Reply(b'{"results":[%b]}' % body, -1, 1, "", "") for body in bodies]
        return Served(replies, 0.0, 0.001 * len(calls))


ROUTE = SimpleNamespace(app="a.1", algorithm="a", version=2)


def run(lane, trouble, count=40, stopped=lambda: False):
    rows = [Row(n, "", Call("task", b"%d" % n, -1, "", "")) for n in range(1, count + 1)]
    runner = Runner(lane, None, JobSettings(), ServingSettings())
    return asyncio.run(runner.answer(rows, ROUTE, trouble, stopped))


def test_frames_grow_until_they_take_as_long_as_a_caller_may_wait():
    lane = Lane()
    lines, answered, worked = run(lane, Trouble())
    assert [len(frame) for frame in lane.frames] == [1, 2, 4, 8, 10, 10, 5]
    assert len(answered) == 40 and round(worked, 3) == 0.04
    assert [msgspec.json.decode(line)["output"] for line in lines] == list(range(1, 41))


def test_jobs_pause_where_a_frame_met_callers_and_go_on_pausing_for_a_while():
    class MetOnce(Lane):
        async def send(self, calls):
            served = await super().send(calls)
            return served._replace(waited=0.005 if len(self.frames) == 1 else 0.0)

    began = time.monotonic()
    run(MetOnce(), Trouble(), count=7)  # frames of 1, 2 and 4 rows, a millisecond each
    assert time.monotonic() - began > 7 * 0.001 * 20
    paused, began = time.monotonic() - began, time.monotonic()
    run(Lane(), Trouble(), count=7)
    assert time.monotonic() - began < paused


def test_a_row_that_ends_the_replica_gets_an_error_and_the_others_answers():
    lane, trouble = Lane(deadly=[b"7"]), Trouble()
    attempts = 0
    while not attempts or trouble.deaths[7] < DEATHS:
        with pytest.raises(NotReady):
            run(lane, trouble)
        assert trouble.careful
        attempts += 1
    assert attempts == DEATHS + 1  # once in company, then alone until it is known
    lines, answered, _ = run(lane, trouble)
    found = [msgspec.json.decode(line) for line in lines]
    assert len(answered) == 39
    assert [row["row"] for row in found if "error" in row] == [7]


def test_a_stopped_job_sends_nothing_more():
    lane = Lane()
    with pytest.raises(Stopped):
        run(lane, Trouble(), stopped=lambda: len(lane.frames) >= 2)
    assert len(lane.frames) == 2


def test_two_items_in_one_line_are_not_two_rows(tmp_path):
    manifest = Manifest.model_validate({
        "name": "crowd", "title": {"zh": "客流", "en": "Crowd"}, "task": "tabular-classification",
        "runtime": "onnx", "weights": "m.onnx", "domain": "tourism", "owner": "tourism",
        "licence": "MIT", "options": {"features": ["hour"], "labels": ["a", "b"]},
    })  # fmt: skip
    (tmp_path / "in").mkdir()
    good = b'i{"features":{"hour":1}}'
    (tmp_path / "in" / "000000.jsonl").write_bytes(
        b"\n".join([good, good + b"," + good[1:], b"i]}{", b'e["bad_data","empty"]', b"i[]"])
    )
    route = SimpleNamespace(task=open_task(manifest), feature_service="")
    runner = Runner(None, None, JobSettings(), ServingSettings(max_json=1000))
    rows = runner.rows(JobFolder(tmp_path), 0, 1, route)
    assert [row.number for row in rows] == [1, 2, 3, 4, 5]
    assert isinstance(rows[0].call, Call)
    assert [row.call.code for row in rows[1:]] == ["bad_json", "bad_json", "bad_data", "bad_json"]


def test_a_row_beyond_the_limit_is_an_error_of_its_own(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "000000.jsonl").write_bytes(b"i" + b"x" * 50)
    runner = Runner(None, None, JobSettings(), ServingSettings(max_json=10))
    rows = runner.rows(JobFolder(tmp_path), 0, 1, SimpleNamespace(feature_service=""))
    assert isinstance(rows[0].call, TooLarge)


def test_entities_of_a_chunk_are_looked_up_at_once_and_who_has_no_history_gets_an_error(tmp_path):
    manifest = Manifest.model_validate({
        "name": "flow", "title": {"zh": "车流", "en": "Flow"}, "task": "forecasting",
        "runtime": "onnx", "weights": "m.onnx", "domain": "traffic", "owner": "traffic",
        "licence": "MIT",
        "options": {"context": 4, "horizon": 2, "step_seconds": 300, "feature_service": "flow"},
    })  # fmt: skip
    (tmp_path / "in").mkdir()
    items = [{"entity": "s1"}, {"series": [1, 2]}, {"entity": "s2"}, {"entity": 3}]
    lines = b"\n".join(b"i" + msgspec.json.encode(item) for item in items)
    (tmp_path / "in" / "000000.jsonl").write_bytes(lines)
    asked = []

    def histories(service, entities):
        asked.append((service, entities))
        return [([5.0, 6.0], datetime(2026, 1, 1, tzinfo=UTC)), None]

    route = SimpleNamespace(task=open_task(manifest), feature_service="flow")
    runner = Runner(None, histories, JobSettings(), ServingSettings())
    first, second, third, fourth = runner.rows(JobFolder(tmp_path), 0, 1, route)
    assert asked == [("flow", ["s1", "s2"])]
    assert msgspec.json.decode(first.call.body)["inputs"][0]["series"] == [5.0, 6.0]
    assert msgspec.json.decode(second.call.body)["inputs"] == [{"series": [1, 2]}]
    assert (third.call.code, fourth.call.code) == ("row_not_found", "bad_json")
