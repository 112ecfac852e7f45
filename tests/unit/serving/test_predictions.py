"""The sampled prediction log: what is drawn, what is kept of it, and that nothing is lost or doubled."""

import os
import struct
import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import orjson
import pytest
from pyarrow import dataset, parquet
from support_door import ADMIN, Door

from citybrain.core.levels import Level
from citybrain.core.schemas import NewSampling
from citybrain.core.settings import PredictionSettings
from citybrain.core.tensors import bytes_array
from citybrain.models.package import Manifest
from citybrain.models.task import open_task
from citybrain.serving.gateway.directory import Route
from citybrain.serving.predictions import spool as spool_module
from citybrain.serving.predictions.contents import contents
from citybrain.serving.predictions.folding import Folding
from citybrain.serving.predictions.masking import masked
from citybrain.serving.predictions.spool import PredictionSpool, frames
from citybrain.serving.protocols import grpc, oip
from citybrain.serving.protocols import task as task_protocol
from citybrain.serving.rollout.traffic import lot
from citybrain.serving.wire import Call, Reply, Served
from citybrain.storage.journal import Settled
from citybrain.storage.prediction_log import PredictionLog, Row
from citybrain.storage.records.samplings import Samplings

ZONE = ZoneInfo("Asia/Shanghai")
TEXT = "路灯坏了，请打13812345678"
PROBABILITIES = np.array([[0.1, 0.9]], np.float32)


def manifest(task="text-classification", level="internal", **options):
    options = options or {"labels": ["a", "b"]}
    return Manifest.model_validate(
        {
            "name": "flow", "title": {"zh": "车流", "en": "Flow"}, "task": task, "runtime": "onnx",
            "weights": "model.onnx", "domain": "traffic", "owner": "traffic", "level": level,
            "licence": "Apache-2.0", "options": options,
        }
    )  # fmt: skip


def route(level="internal", task="text-classification"):
    told = manifest(task, level)
    opened = open_task(told)
    return Route("flow", "champion", "app", 2, 1, told, opened, opened.signature(), "")


def settled(request_id, at=None, **changed):
    at_ms = int((at or datetime.now(UTC)).timestamp() * 1e3)
    first = Settled(
        request_id, at_ms, "k", "health", "flow", "care", "task", 2, 200, 1, 1500, 0, 900
    )
    return first._replace(**changed)


def ask(text=TEXT):
    return Call("task", orjson.dumps({"inputs": [{"text": text}]}), -1, "application/json", "r")


def outputs():
    return {
        "label": bytes_array([b"b"]), "probabilities": PROBABILITIES, "abstained": np.array([False])
    }  # fmt: skip


def answer():
    results = open_task(manifest()).write(outputs())
    return Reply(task_protocol.encode(results, "flow", "2", "r"), -1, 1, "", "")


def rows_of(folder):
    return dataset.dataset(folder, format="parquet", partitioning="hive").to_table().to_pylist()


class City:
    """A gateway's spool and the log of a control process."""

    def __init__(self, folder, **settings):
        self.spooled, self.logged = folder / "spool", folder / "predictions"
        for each in (self.spooled, self.logged):
            each.mkdir(exist_ok=True)
        settings = PredictionSettings(**({"rate": 1.0} | settings))
        self.spool = PredictionSpool(self.spooled, b"secret", settings)
        self.log = PredictionLog(self.logged, ZONE)
        self.folding = Folding(self.spooled, self.log, b"secret")

    def take(self, *ids, level="internal", call=None, reply=None, **changed):
        for one in ids:
            self.spool.take(
                settled(one, **changed), route(level), call or ask(), reply or answer(), 1.0
            )

    def files(self):
        return sorted(path.suffix for path in self.spooled.iterdir())


@pytest.fixture
def city(tmp_path):
    return City(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("请打 138 1234 5678 或 +86-13912345678", "请打 <phone> 或 <phone>"),
        ("电话０５７１－８７６５４３２１。", "电话<phone>。"),
        ("座机(0571)87654321", "座机<phone>"),
        ("身份证33010619900307123X，谢谢", "身份证<id-card>，谢谢"),
        ("卡号6222 0212 3456 7890 123", "卡号<bank-card>"),
        ("写信到 wang.wu+1@gov.example.cn吧", "写信到 <email>吧"),
        ("浙A·12345 和 浙AD12345 撞了", "<plate> 和 <plate> 撞了"),
        ("工单202611210号", "工单<number>号"),
        ("我的号是幺三八零零幺三八零零零", "我的号是<number>"),
        ("12路公交3分钟一班，2026年11月21日", "12路公交3分钟一班，2026年11月21日"),
    ],
)
def test_personal_things_are_masked_and_plain_numbers_are_not(text, expected):
    assert masked(text) == expected


def test_masking_takes_time_in_proportion_to_the_text():
    for hostile in ("a." * 50_000 + "@", "1 " * 50_000, "+1 2" * 25_000, "浙A1" * 33_000):
        began = time.perf_counter()
        masked(hostile)
        assert time.perf_counter() - began < 2, hostile[:8]


def test_a_call_is_told_alike_whatever_its_door():
    """Task API, JSON tensors, binary tensors and gRPC: one input, one output, equal digests."""
    from tritonclient.grpc import service_pb2 as pb

    task = open_task(manifest())
    raw = TEXT.encode()
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES"}
    plain = orjson.dumps({"inputs": [{**tensor, "data": [TEXT]}]})
    packed = len(raw).to_bytes(4, "little") + raw
    head = orjson.dumps({
        "inputs": [{**tensor, "parameters": {"binary_data_size": len(packed)}}],
        "parameters": {"binary_data_output": True},
    })  # fmt: skip
    request = pb.ModelInferRequest(model_name="flow", raw_input_contents=[packed])
    request.inputs.add(name="text", datatype="BYTES", shape=[1])
    message = request.SerializeToString()
    found = {contents(ask(), answer(), task, Level.INTERNAL, b"")}
    for body, length in ((plain, -1), (head + packed, len(head))):
        call = Call("oip", body, length, "", "r")
        reply = Reply(*oip.encode(oip.decode(body, length)[0], outputs(), "flow", "2"), 1, "", "")
        found.add(contents(call, reply, task, Level.INTERNAL, b""))
    reply = Reply(grpc.encode(request, outputs(), "flow", "2"), -1, 1, "", "")
    found.add(contents(Call("grpc", message, -1, "", "r"), reply, task, Level.INTERNAL, b""))
    (told,) = found
    assert orjson.loads(told.input) == {"text": ["路灯坏了，请打<phone>"]}
    (result,) = orjson.loads(told.output)
    assert result["label"] == "b"
    assert result["probabilities"]["b"] == pytest.approx(0.9)
    assert len(told.input_digest) == len(told.output_digest) == 64


@pytest.mark.parametrize("level", ["sensitive", "personal"])
def test_of_a_private_algorithm_only_keyed_digests_reach_the_disk(city, level):
    secret_text = "张三的血压是一百八"
    city.take("r1", "r2", level=level, call=ask(secret_text))
    city.spool.write()
    (path,) = city.spooled.iterdir()
    assert secret_text.encode() not in path.read_bytes()
    assert b"results" not in path.read_bytes()
    city.spool._finish()
    assert city.folding.run() == 2
    one, other = rows_of(city.logged)
    assert one["input"] is one["output"] is None
    assert one["input_digest"] == other["input_digest"]
    task = open_task(manifest())
    bare = contents(ask(secret_text), answer(), task, Level.INTERNAL, b"secret")
    keyed = contents(ask(secret_text), answer(), task, Level.PERSONAL, b"secret")
    assert one["input_digest"] == keyed.input_digest != bare.input_digest
    assert one["output_digest"] == keyed.output_digest != bare.output_digest


def test_pictures_and_sounds_are_told_by_kind_size_and_digest():
    png = b"\x89PNG\r\n\x1a\n" + bytes(100)
    task = open_task(manifest("image-classification", labels=["a", "b"], image_size=32))
    call = Call("task", png, -1, "image/png", "r")
    told = contents(call, Reply(b"", -1, 0, "bad_media", ""), task, Level.PUBLIC, b"")
    (picture,) = orjson.loads(told.input)["image"]
    assert (picture["kind"], picture["bytes"], len(picture["sha256"])) == ("image/png", 108, 64)
    assert (told.output, told.output_digest) == (None, None)

    speech = open_task(manifest("speech-synthesis", speakers=1))
    sound = {"audio": np.zeros((1, 800), np.float32), "length": np.array([800], np.int32),
             "sample_rate": np.array([8000], np.int32)}  # fmt: skip
    asked = Call("oip", b"{}", -1, "", "r")
    body, length = oip.encode(oip.InferRequest([]), sound, "tts", "1")
    over_oip = contents(asked, Reply(body, length, 1, "", ""), speech, Level.PUBLIC, b"")
    body = task_protocol.encode(speech.write(sound), "tts", "1", "r")
    asked = Call("task", b"{}", -1, "", "r")
    by_task = contents(asked, Reply(body, -1, 1, "", ""), speech, Level.PUBLIC, b"")
    (said,) = orjson.loads(by_task.output)
    assert said["audio"]["kind"] == "audio/wav"
    assert (over_oip.output, over_oip.output_digest) == (by_task.output, by_task.output_digest)


def test_what_cannot_be_decoded_or_is_too_long_keeps_its_digest():
    task = open_task(manifest())
    broken = contents(ask()._replace(body=b"{"), answer(), task, Level.PUBLIC, b"")
    assert broken.input is None
    assert len(broken.input_digest) == 64
    strange = contents(ask(), Reply(b"?", -1, 1, "", ""), task, Level.PUBLIC, b"")
    assert strange.output is None
    assert len(strange.output_digest) == 64
    values = np.zeros((1, 40_000))
    body = orjson.dumps({"inputs": [{"name": "x", "shape": [1, 40_000], "datatype": "FP64",
                                     "data": values.ravel().tolist()}]})  # fmt: skip
    long = contents(Call("oip", body, -1, "", "r"), answer(), task, Level.PUBLIC, b"")
    assert long.input is None
    part = oip.encode(oip.InferRequest([]), {"label": outputs()["label"]}, "flow", "2")
    some = contents(
        Call("oip", b"{}", -1, "", "r"), Reply(*part, 1, "", ""), task, Level.PUBLIC, b""
    )
    assert orjson.loads(some.output) == {"label": ["b"]}


def test_the_draw_is_the_same_everywhere_and_fair_to_splits_and_shadows(tmp_path):
    ids = [f"{1763720000000 + n // 7:012x}deadbeef{n:012x}" for n in range(100_000)]
    one, other = City(tmp_path, rate=0.02).spool, City(tmp_path, rate=0.5).spool
    drawn = [i for i in ids if one.rate({}, "flow", i)]
    assert len(drawn) == pytest.approx(2000, rel=0.1)
    assert drawn == [i for i in ids if other.rate({"flow": 0.02}, "flow", i) == 0.02]
    assert not any(one.rate({"flow": 0.0}, "flow", i) for i in ids)
    for name in ("flow", "shadow"):  # a split at 50 must not part the sampled from the others
        assert sum(lot(name, i) < 50 for i in drawn) / len(drawn) == pytest.approx(0.5, abs=0.05)


def test_rows_lie_by_algorithm_and_the_citys_day(city):
    late = datetime(2026, 11, 20, 16, 30, 0, 123000, UTC)  # past midnight in Shanghai
    city.take("r1", at=late)
    city.take("r2", at=late - timedelta(hours=1), status=500)
    city.take("r3", reply=Reply(b"no", -1, 0, "model_failed", ""))
    city.spool.write()
    city.spool._finish()
    assert city.folding.run() == 3
    assert city.files() == []
    days = sorted(p.name for p in (city.logged / "algorithm=flow").iterdir())
    assert days[:2] == ["date=2026-11-20", "date=2026-11-21"]
    found = {row["request_id"]: row for row in rows_of(city.logged)}
    assert found["r1"]["at"] == late
    assert found["r1"]["algorithm"] == "flow"
    assert (found["r1"]["latency_ms"], found["r1"]["work_ms"]) == (1.5, pytest.approx(0.9))
    assert (found["r3"]["code"], found["r3"]["output"]) == ("model_failed", None)
    assert os.stat(next(city.logged.rglob("*.parquet"))).st_mode & 0o777 == 0o600
    newest = city.log.find("flow", limit=2)
    assert [row["request_id"] for row in newest] == ["r3", "r1"]
    assert newest[1]["input"] == {"text": ["路灯坏了，请打<phone>"]}
    assert [r["request_id"] for r in city.log.find("flow", since=late)] == ["r3", "r1"]
    assert city.log.find("flow", department="tourism") == []
    city.log.export("flow", city.logged.parent / "all.parquet")
    table = parquet.read_table(city.logged.parent / "all.parquet")
    assert table.column_names == list(Row._fields)
    assert table["request_id"].to_pylist() == ["r2", "r1", "r3"]


def test_a_killed_gateway_loses_its_buffer_and_a_torn_end_alone(city):
    city.take("r1", "r2")
    city.spool.write()
    (path,) = city.spooled.iterdir()
    whole = path.read_bytes()
    assert city.folding.run() == 0  # its gateway lives: nobody touches its file
    os.close(city.spool._file)  # as the kernel does for whom it kills
    city.spool._file = -1
    path.write_bytes(whole + struct.pack("<I", 999) + b"torn")
    assert city.folding.run() == 2
    city.take("r3")
    city.spool.write()
    city.spool._finish()
    assert city.folding.run() == 1
    assert sorted(row["request_id"] for row in rows_of(city.logged)) == ["r1", "r2", "r3"]


@pytest.mark.parametrize("moment", ["append", "rename", "rmtree"])
def test_a_control_process_killed_anywhere_writes_each_row_once(city, monkeypatch, moment):
    class Killed(BaseException):
        pass

    def kill(*_, **__):
        raise Killed

    for number in range(3):
        city.take(f"r{number}")
        city.spool.write()
        city.spool._finish()
    from citybrain.serving.predictions import folding

    with monkeypatch.context() as patch:
        if moment == "append":
            real = parquet.write_table

            def half(table, file, **more):
                real(table.slice(0, 1), file, **more)
                raise Killed

            patch.setattr(parquet, "write_table", half)
        elif moment == "rename":
            patch.setattr(folding.Path, "rename", lambda self, to: (
                kill() if "done-" in str(to) else os.rename(self, to) or folding.Path(to)))  # fmt: skip
        else:
            patch.setattr(folding.shutil, "rmtree", kill)
        with pytest.raises(Killed):
            city.folding.run()
    if moment == "append":
        assert rows_of(city.logged) == []
    city.folding.run()
    assert sorted(row["request_id"] for row in rows_of(city.logged)) == ["r0", "r1", "r2"]
    assert city.files() == []
    city.log.tidy(lambda _: 30, 1 << 30, datetime.now(UTC))
    assert not list(city.logged.rglob("*.new"))


def test_small_parts_become_one_and_a_kill_in_between_doubles_nothing(city, monkeypatch):
    yesterday = datetime.now(UTC) - timedelta(days=1)
    for number in range(3):
        city.log.append([row_of(f"r{number}", yesterday)], str(number))
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.unlink", lambda self, missing_ok=False: (
            None if missing_ok else (_ for _ in ()).throw(KeyboardInterrupt)))  # fmt: skip
        with pytest.raises(KeyboardInterrupt):
            city.log.tidy(lambda _: 30, 1 << 30, datetime.now(UTC))
    assert len(rows_of(city.logged)) == 6  # a reader of this moment sees some twice
    for _ in range(2):
        city.log.tidy(lambda _: 30, 1 << 30, datetime.now(UTC))
        assert sorted(row["request_id"] for row in rows_of(city.logged)) == ["r0", "r1", "r2"]
    assert len(list(city.logged.rglob("*.parquet"))) == 1
    city.log.append([row_of("r3", yesterday)], "3")  # folded past midnight
    city.log.tidy(lambda _: 30, 1 << 30, datetime.now(UTC))
    assert len(list(city.logged.rglob("*.parquet"))) == 1
    assert len(rows_of(city.logged)) == 4


def row_of(request_id, at, algorithm="flow", text="x"):
    return Row(request_id, at, algorithm, 2, "champion", "health", "care", "task", 200, "", 1, 1.0,
               0.5, 1.0, text, "d", None, None)  # fmt: skip


def test_days_end_by_their_algorithms_rule_and_the_oldest_go_first_when_it_is_too_much(city):
    now = datetime(2026, 11, 21, 4, 0, tzinfo=UTC)
    noise = np.random.default_rng(1)
    for algorithm in ("flow", "other"):
        for days in range(4):
            text = noise.bytes(40_000).hex()
            city.log.append([row_of("r", now - timedelta(days=days), algorithm, text)], "1")
    city.log.tidy(lambda name: 2 if name == "flow" else 30, 1 << 30, now)
    left = sorted(
        p.parent.name[-2:] + p.parents[1].name[10:] for p in city.logged.rglob("*.parquet")
    )
    assert left == ["18other", "19other", "20flow", "20other", "21flow", "21other"]
    sizes = sum(path.stat().st_size for path in city.logged.rglob("*.parquet"))
    assert city.log.tidy(lambda _: 30, sizes // 2, now) <= sizes // 2
    left = sorted({p.parent.name[-2:] for p in city.logged.rglob("*.parquet")})
    assert left[-1] == "21"
    assert "18" not in left


def test_a_full_disk_loses_samples_and_harms_nobody(city, monkeypatch):
    city.take("r1")
    with monkeypatch.context() as patch:
        patch.setattr(spool_module.os, "write", lambda file, data: len(data) - 1)
        with pytest.raises(OSError, match="whole"):
            city.spool.write()
    assert city.spool.lost == 1
    city.take("r2")
    city.spool.write()
    city.spool._finish()
    city.folding.run()
    assert [row["request_id"] for row in rows_of(city.logged)] == ["r2"]


def test_the_thread_goes_on_after_an_error_and_writes_what_is_left_at_the_end(city, monkeypatch):
    real, failed = spool_module.os.open, []

    def once(*arguments):
        if not failed:
            failed.append(True)
            raise OSError(28, "no space")
        return real(*arguments)

    monkeypatch.setattr(spool_module, "FLUSH_SECONDS", 0.01)
    monkeypatch.setattr(spool_module.os, "open", once)
    city.take("r1")
    city.spool.start()
    while not failed:
        time.sleep(0.01)
    city.take("r2")
    city.spool.close()
    assert city.spool.lost == 1
    (path,) = city.spooled.iterdir()
    assert path.suffix == ".calls"
    assert len(list(frames(path))) == 2  # the origin and the call


def test_the_buffer_and_the_spool_have_bounds(city, monkeypatch):
    monkeypatch.setattr(spool_module, "MOST_CALLS", 3)
    city.take(*(f"r{number}" for number in range(5)))
    assert city.spool.lost == 2
    city.spool.write()
    monkeypatch.setattr(spool_module, "MOST_BUFFERED", 100)
    city.take("r6", reply=Reply(bytes(200), -1, 1, "", ""))
    assert city.spool.lost == 3
    city.spool._finish()
    city.spool._most = 10
    monkeypatch.undo()
    city.take("r7")
    with pytest.raises(OSError, match="spool is full"):
        city.spool.write()
    assert city.spool.lost == 4


def test_a_spool_of_another_platform_version_is_left_out_and_the_rest_is_kept(city):
    city.take("r1")
    city.spool.write()
    city.spool._finish()
    (path,) = city.spooled.iterdir()
    origin = msgspec.msgpack.encode(["origin", 0, "champion", 2, '{"format": 9}'])
    (city.spooled / "0-old.calls").write_bytes(struct.pack("<I", len(origin)) + origin)
    assert city.folding.run() == 1
    assert not path.exists()


def test_a_gateway_keeps_the_sampled_calls_and_no_more(city, tmp_path):
    """Through the door: the algorithm's own rate counts, and what was sent is what is kept."""
    door = Door(tmp_path)
    samplings = Samplings(door.database)

    async def label(route, calls):
        return Served([answer() for _ in calls])

    def ask_at(rate, times=1):
        samplings.put("flow", NewSampling(rate=rate), ADMIN)
        body = orjson.dumps({"inputs": [{"text": TEXT}]})
        for _ in range(times):
            found = door.ask(
                "POST", "/v1/algorithms/flow/predict", body=body, send=label, spool=city.spool
            )
            assert found[0] == 200
        return found[1][b"x-request-id"].decode()

    ask_at(0.0, times=3)
    kept = ask_at(1.0)
    city.spool.write()
    city.spool._finish()
    assert city.folding.run() == 1
    (row,) = city.log.find("flow")
    assert row["request_id"] == kept
    assert (row["department"], row["door"], row["target"]) == ("health", "task", "champion")
    assert (row["version"], row["status"], row["rate"]) == (2, 200, 1.0)
    assert row["input"] == {"text": ["路灯坏了，请打<phone>"]}
    assert row["output"][0]["label"] == "b"


def test_a_log_that_fails_fails_no_call(city, tmp_path, monkeypatch):
    door = Door(tmp_path)
    city.spooled.rename(city.spooled.with_name("gone"))  # every write fails
    monkeypatch.setattr(spool_module, "FLUSH_SECONDS", 0.01)
    city.spool.start()
    for _ in range(3):
        assert door.ask("POST", "/v2/models/flow/infer", spool=city.spool)[0] == 200
    city.spool.close()
    assert city.spool.lost == 3


def test_large_parts_are_merged_no_more_and_many_of_a_day_in_portions(city, monkeypatch):
    yesterday = datetime.now(UTC) - timedelta(days=1)
    noise = np.random.default_rng(2)
    for number in range(6):
        row = row_of(f"r{number}", yesterday, text=noise.bytes(20_000).hex())
        city.log.append([row], str(number))
    monkeypatch.setattr("citybrain.storage.prediction_log.LARGE", 60_000)
    for _ in range(8):
        city.log.tidy(lambda _: 30, 1 << 30, datetime.now(UTC))
    sizes = [path.stat().st_size for path in city.logged.rglob("*.parquet")]
    assert 1 < len(sizes) < 6
    assert max(sizes) < 2 * 60_000
    assert sorted(row["request_id"] for row in rows_of(city.logged)) == [f"r{n}" for n in range(6)]


def test_looking_up_reads_the_newest_across_parts_and_days(city):
    now = datetime.now(UTC).replace(microsecond=0)
    for number in range(40):
        at = now - timedelta(hours=number)
        city.log.append([row_of(f"r{number}", at, text='{"x": 1}')], f"p{number:02d}")
    for limit in (1, 7, 30, 1000):
        found = city.log.find("flow", limit=limit)
        assert [row["request_id"] for row in found] == [f"r{n}" for n in range(min(limit, 40))]
    since = now - timedelta(hours=5)
    assert len(city.log.find("flow", since=since)) == 6
    assert len(city.log.find("flow", since=since, department="health", limit=3)) == 3
