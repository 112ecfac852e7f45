"""The task `tensor` passes every kind of tensor through JSON and back."""

import msgspec
import pytest

from citybrain.models.task import open_task
from citybrain.models.tasks.tensor import TensorItem


@pytest.mark.parametrize(
    ("dtype", "shape", "value"),
    [
        ("BYTES", [-1], "拥堵"),
        ("BYTES", [-1, 2], ["拥堵", ""]),
        ("BYTES", [-1, 2, 1], [["a"], ["b"]]),
        ("FP32", [-1, 2], [0.5, 1.0]),
        ("INT64", [-1], 2**53 + 1),
        ("BOOL", [-1, 1], [True]),
    ],
)
def test_what_goes_in_comes_out_of_json_again(dtype, shape, value, manifest_with):
    tensor = [{"name": "x", "dtype": dtype, "shape": shape}]
    task = open_task(manifest_with({"inputs": tensor, "outputs": tensor}))
    tensors = task.read([TensorItem({"x": value})] * 2)
    assert task.signature().check_inputs(tensors) == 2
    written = msgspec.json.decode(msgspec.json.encode(task.write(tensors)))
    assert written == [{"tensors": {"x": value}}] * 2


@pytest.fixture
def manifest_with():
    from citybrain.models.package import Manifest

    def make(options):
        return Manifest.model_validate({
            "name": "any-name", "title": {"zh": "甲", "en": "A"}, "task": "tensor",
            "runtime": "onnx", "weights": "x.onnx", "domain": "traffic", "owner": "traffic",
            "licence": "MIT", "options": options,
        })  # fmt: skip

    return make
