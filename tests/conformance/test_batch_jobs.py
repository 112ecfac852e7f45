"""Batch jobs as a door: rows as files in, one line a row out."""

import json
import zipfile

import pandas as pd
import pytest
from pyarrow import parquet

from citybrain.core.errors import CityBrainError, error_from
from citybrain.sdk import CityBrain
from conformance.bodies import DATATYPES, SAMPLES
from conformance.colour_model import COLOURS, picture

pytestmark = [pytest.mark.platform, pytest.mark.ours, pytest.mark.door("batch jobs")]
feature = pytest.mark.feature


@pytest.fixture(scope="module")
def city(server):
    with CityBrain(server.url, server.key, timeout=120) as found:
        yield found


def lines(city, job, folder):
    assert city.wait_for_job(job.id).state == "done"
    path = city.job_result(job.id, folder / "result.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def written(folder, *rows):
    path = folder / "rows.jsonl"
    path.write_text(
        "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    )
    return path


def numbers(*values):
    return [{"tensors": {"x_fp32": [value]}} for value in values]


@feature("every datatype")
@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_goes_through_rows(server, city, datatype, tmp_path):
    name, (row,) = datatype.lower(), SAMPLES[datatype]
    path = written(tmp_path, {"tensors": {f"x_{name}": row}})
    (line,) = lines(city, city.submit_job(server.model, path), tmp_path)
    assert line["output"]["tensors"][f"y_{name}"] == row


@feature("order")
def test_lines_are_in_the_order_of_the_rows(server, city, tmp_path):
    path = written(tmp_path, *numbers(*map(float, range(200))))
    found = lines(city, city.submit_job(server.model, path), tmp_path)
    assert [line["row"] for line in found] == list(range(1, 201))
    assert [line["output"]["tensors"]["twice"] for line in found] == [[2.0 * n] for n in range(200)]


@feature("wrong items refused")
def test_a_wrong_row_is_its_own_error(server, city, tmp_path):
    path = written(tmp_path, *numbers(1.0), "no json", {"tensors": {"z": [1]}}, *numbers(2.0))
    found = lines(city, city.submit_job(server.model, path), tmp_path)
    codes = [line.get("error", {}).get("code") for line in found]
    assert codes == [None, "bad_json", "bad_tensor", None]


@feature("files")
@pytest.mark.parametrize("packed", [False, True], ids=["several files", "a zip"])
def test_files_are_rows(city, colours, packed, tmp_path):
    paths = []
    for number, colour in enumerate([*COLOURS] * 2):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(picture(colour))
    handed = paths
    if packed:
        handed = tmp_path / "all.zip"
        with zipfile.ZipFile(handed, "w") as archive:
            for path in paths:
                archive.write(path, path.name)
    found = lines(city, city.submit_job(colours, handed), tmp_path)
    assert [line["output"]["label"] for line in found] == [*COLOURS] * 2
    assert [line["name"] for line in found] == [path.name for path in paths]


@feature("files refused")
def test_what_is_no_picture_is_that_rows_error(city, colours, tmp_path):
    for name, raw in (("a.png", picture("red")), ("b.png", b"\x89PNG no picture")):
        (tmp_path / name).write_bytes(raw)
    handed = [tmp_path / "a.png", tmp_path / "b.png"]
    found = lines(city, city.submit_job(colours, handed), tmp_path)
    assert found[0]["output"]["label"] == "red"
    assert found[1]["error"]["code"] == "bad_media"


@feature("tables")
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_are_taken(server, city, kind, tmp_path):
    table = pd.DataFrame({"x_fp32": ["[1.0]", "[2.0]"]})
    path = tmp_path / f"rows.{kind}"
    if kind == "csv":
        table.to_csv(path, index=False)
    else:
        pd.DataFrame({"x_fp32": [[1.0], [2.0]]}).to_parquet(path)
    found = lines(city, city.submit_job(server.model, path), tmp_path)
    assert [line["output"]["tensors"]["twice"] for line in found] == [[2.0], [4.0]]


@feature("tables")
def test_parquet_is_given(city, colours, tmp_path):
    (tmp_path / "a.png").write_bytes(picture("green"))
    job = city.submit_job(colours, [tmp_path / "a.png"], result="parquet")
    assert city.wait_for_job(job.id).state == "done"
    found = parquet.read_table(city.job_result(job.id, tmp_path / "out.parquet")).to_pylist()
    assert [(row["row"], row["label"]) for row in found] == [(1, "green")]


@feature("tables")
@pytest.mark.parametrize(
    ("name", "raw"),
    [("rows.parquet", b"PAR1"), ("rows.xlsx", b"PK"),
     ("rows.jsonl", b"")],
)  # fmt: skip
def test_what_cannot_be_read_at_all_is_refused(server, city, name, raw, tmp_path):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(CityBrainError) as refused:
        city.submit_job(server.model, tmp_path / name)
    assert refused.value.code in ("bad_data", "invalid_input")


@feature("request id")
def test_a_job_has_an_id_and_every_answer_its_own(server, city, tmp_path):
    with (written(tmp_path, *numbers(1.0))).open("rb") as file:
        answer = server.http.post(
            "/v1/jobs", data={"algorithm": server.model}, files={"file": ("rows.jsonl", file)}
        )
    assert answer.status_code == 202, answer.text
    assert len(answer.headers["x-request-id"]) == 32
    assert city.wait_for_job(answer.json()["id"]).rows == 1


@feature("versions and aliases")
def test_a_version_can_be_named(server, city, tmp_path):
    path = written(tmp_path, *numbers(1.0))
    (line,) = lines(city, city.submit_job(f"{server.model}@{server.version}", path), tmp_path)
    assert str(line["version"]) == server.version


@feature("unknown models and versions")
@pytest.mark.parametrize(
    ("target", "code"), [("no-such-thing", "algorithm_not_found"), ("@99", "version_not_found")]
)
def test_what_is_not_there_is_not_found(server, city, target, code, tmp_path):
    name = server.model + target if target.startswith("@") else target
    with pytest.raises(type(error_from(code, ""))):
        city.submit_job(name, written(tmp_path, *numbers(1.0)))


@feature("keys and purposes")
@pytest.mark.parametrize(("key", "code"), [("", "missing_key"), ("x", "bad_key")])
def test_a_job_without_a_good_key_is_refused(server, key, code, tmp_path):
    with CityBrain(server.url, key) as city, pytest.raises(type(error_from(code, ""))):
        city.submit_job(server.model, written(tmp_path, *numbers(1.0)))


@feature("keys and purposes")
def test_a_purpose_that_the_key_does_not_have_is_refused(server, city, tmp_path):
    with pytest.raises(type(error_from("not_granted", ""))):
        city.submit_job(server.model, written(tmp_path, *numbers(1.0)), purpose="advertising")


@feature("cancellation")
def test_a_cancelled_job_ends(server, city, tmp_path):
    job = city.submit_job(server.model, written(tmp_path, *numbers(*[1.0] * 20_000)))
    assert city.cancel_job(job.id).state == "cancelled"
    assert city.wait_for_job(job.id).state == "cancelled"
