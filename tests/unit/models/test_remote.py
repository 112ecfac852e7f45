"""Addresses of remote models have one spelling, and name only what the list allows."""

import json

import pytest

from citybrain.core.errors import BadPackage, HostNotListed, InvalidInput
from citybrain.models.remote import (
    MAX_BYTES,
    RemoteModel,
    check_listed,
    parse_address,
    read_remote,
)
from citybrain.models.remote_answer import first_line


@pytest.mark.parametrize(
    ("said", "canonical"),
    [
        ("triton://gpu-1/resnet", "triton://gpu-1:8000/resnet"),
        ("triton+grpc://gpu-1/resnet", "triton+grpc://gpu-1:8001/resnet"),
        ("triton://GPU-1.City.Example:08000/resnet", "triton://gpu-1.city.example:8000/resnet"),
        ("triton://gpu_1:9000/Res.net-50@v2", "triton://gpu_1:9000/Res.net-50@v2"),
        ("triton://127.0.0.1/m@3", "triton://127.0.0.1:8000/m@3"),
        ("triton://[::1]/m", "triton://[::1]:8000/m"),
        ("triton://[0:0:0::0001]:8000/m", "triton://[::1]:8000/m"),
        ("triton://[FE80::A]:80/m", "triton://[fe80::a]:80/m"),
    ],
)
def test_an_address_has_one_canonical_form(said, canonical):
    assert str(parse_address(said)) == canonical
    assert str(parse_address(canonical)) == canonical


@pytest.mark.parametrize(
    "said",
    [
        "triton://user@gpu-1/m", "triton://user:secret@gpu-1/m", "triton://gpu-1@evil/m",
        "triton://gpu-1#@evil/m", "triton://gpu-1\\@evil/m", "triton://gpu-1 /m",
        "triton://127.1/m", "triton://127.0.1/m", "triton://2130706433/m", "triton://0x7f.0.0.1/m",
        "triton://0x7f000001/m", "triton://0177.0.0.1/m", "triton://127.0.0.01/m",
        "triton://127.0.0.1./m", "triton://1.2.3.4.5/m", "triton://gpu-1./m", "triton://.gpu/m",
        "triton://-gpu/m", "triton://gpu..one/m", f"triton://{'g' * 64}/m", "triton://gpü/m",
        "triton://ⓖpu/m", "triton://gpu%2d1/m", "triton://[::1%25eth0]/m", "triton://[::1/m",
        "triton://::1/m", "triton://[127.0.0.1]/m", "triton://[:::]/m", "triton://gpu-1:/m",
        "triton://gpu-1:0/m", "triton://gpu-1:65536/m", "triton://gpu-1:80a/m",
        "triton://gpu-1:８０/m", "triton://gpu-1:1:2/m", "triton:///m", "triton://gpu-1",
        "triton://gpu-1/", "triton://gpu-1/..", "triton://gpu-1/../m", "triton://gpu-1/a/b",
        "triton://gpu-1//m", "triton://gpu-1/m?x=1", "triton://gpu-1/m#x", "triton://gpu-1/m@",
        "triton://gpu-1/m@../x", "triton://gpu-1/m@1@2", "triton://gpu-1/m%2f", "triton://gpu-1/m\n",
        "triton://gpu-1\r\n/m", "http://gpu-1/m", "TRITON://gpu-1/m", "triton:gpu-1/m",
    ],
)  # fmt: skip
def test_what_is_no_plain_address_is_refused_without_repeating_it(said):
    with pytest.raises(InvalidInput, match="no address of a remote model") as refused:
        parse_address(said)
    assert "secret" not in str(refused.value)
    assert "triton://gpu-1:8000/resnet@2" in refused.value.hint


@pytest.mark.parametrize(
    ("address", "hosts"),
    [
        ("triton://gpu-1/m", "gpu-1"),
        ("triton+grpc://gpu-1/m", "gpu-1"),
        ("triton://gpu-1/m", "other:1, GPU-1:8000 ,"),
        ("triton://gpu-1:9000/m", "gpu-1:9000"),
        ("triton://[::1]/m", "[0::1]"),
    ],
)
def test_a_listed_server_may_be_named_however_it_is_spelled(address, hosts):
    check_listed(parse_address(address), hosts)


@pytest.mark.parametrize(
    ("address", "hosts"),
    [
        ("triton://gpu-1/m", ""),
        ("triton://gpu-1/m", " , "),
        ("triton://gpu-1:22/m", "gpu-1"),  # a host alone is not all of its ports
        ("triton+grpc://gpu-1/m", "gpu-1:8000"),
        ("triton://gpu-1.evil.example/m", "gpu-1"),
        ("triton://localhost/m", "127.0.0.1"),
        ("triton://[::ffff:127.0.0.1]/m", "127.0.0.1"),
        ("triton://gpu-1/m", "*"),
        ("triton://gpu-1/m", "http://gpu-1:8000"),
    ],
)
def test_all_other_servers_are_refused_with_the_setting_to_change(address, hosts):
    with pytest.raises(HostNotListed, match="CITYBRAIN_REMOTE__HOSTS") as refused:
        check_listed(parse_address(address), hosts)
    assert refused.value.code == "host_not_listed"


def model(*shapes, dtype="FP32", **fields):
    first, *others = shapes or ([-1, 3],)
    inputs = [
        {"name": f"x{n}", "dtype": dtype, "shape": s} for n, s in enumerate(others or [first])
    ]
    outputs = [{"name": "y", "dtype": dtype, "shape": first}]
    return {"address": "triton://gpu-1:8000/m", "inputs": inputs, "outputs": outputs, **fields}


@pytest.mark.parametrize(
    ("shapes", "rows"),
    [([[-1, 3]], 64), ([[-1], [-1]], 64), ([[1, 3]], 1), ([[-1, 2], [1, 3], [-1, 3]], 1)],
)
def test_a_fixed_first_axis_of_one_means_one_row_a_call(shapes, rows):
    found = RemoteModel.model_validate(model(*shapes))
    assert found.rows_at_once() == rows
    assert all(spec.shape[0] == -1 for spec in found.signature().inputs)


@pytest.mark.parametrize("shapes", [[[16]], [[-1, 3], [8, 3]], [[4], [-1]]])
def test_a_first_axis_that_is_no_batch_axis_is_refused_with_its_shape(shapes):
    with pytest.raises(BadPackage, match="not a batch axis"):
        RemoteModel.model_validate(model(*shapes)).rows_at_once()


def test_what_the_server_tells_differently_is_named():
    before = RemoteModel.model_validate(model([-1, 3], [-1, 2], [-1, 4]))
    assert before.changes(before) == ""
    wider = RemoteModel.model_validate(model([-1, 3], [-1, 2], [-1, 5]))
    assert before.changes(wider) == "x1 was FP32[-1, 4], is FP32[-1, 5]"
    fewer = RemoteModel.model_validate(model([-1, 3], [-1, 2]))
    assert before.changes(fewer) == "x1 was FP32[-1, 4], is not there"
    assert "y was FP32[-1, 3], is INT64[-1, 3]" in before.changes(
        RemoteModel.model_validate(model([-1, 3], dtype="INT64"))
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("not JSON", "not JSON"),
        ("[]", "not a JSON object"),
        (json.dumps(model(colour=1)), "colour"),
        (json.dumps(model(dtype="FP8")), "dtype"),
        (json.dumps(model(address="triton://user@gpu-1/m")), "no address"),
        (json.dumps(model(address="file:///etc/passwd")), "no address"),
        (json.dumps(model(inputs=[])), "inputs"),
        (json.dumps(model(inputs=2 * model()["outputs"])), "twice"),
        (json.dumps(model(max_batch=0)), "max_batch"),
        (" " * (MAX_BYTES + 1), "larger than"),
    ],
)
def test_a_broken_description_is_refused_with_the_reason(text, reason, tmp_path):
    (tmp_path / "remote.json").write_text(text)
    with pytest.raises(BadPackage, match=reason):
        read_remote(tmp_path / "remote.json")


def test_what_somebody_else_said_is_one_short_printable_line():
    said = ValueError("[400] \x1b[31mred\u202e\nsecond line" + "x" * 5000)
    assert first_line(said) == "[400] ?[31mred?"
    assert len(first_line("y" * 10**6)) == 150
    assert first_line(TimeoutError()) == "TimeoutError"


def test_of_a_traceback_the_line_with_the_reason_is_repeated():
    said = (
        "[500] Failed to process the request(s) for model 'm_0_0', message: TritonModelException: "
        "Model execute error: Traceback (most recent call last):\n"
        '  File "/tmp/folder/1/model.py", line 492, in execute\n    raise error\n'
        "c_python_backend_utils.TritonModelException: Traceback (most recent call last):\n"
        '  File "/srv/models.py", line 38, in picky\n    raise ValueError("x: y")\n'
        "ValueError: no negative numbers\nand a second line\n\n\n\nAt:\n  /tmp/folder/1/model.py(501)\n"
    )
    assert first_line(said) == "ValueError: no negative numbers"
    assert (
        first_line("Traceback (most recent call last):\n  cut")
        == "Traceback (most recent call last):"
    )
