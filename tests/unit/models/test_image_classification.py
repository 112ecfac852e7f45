"""Classifying images: the model's input, the probabilities, the data set's form."""

import numpy as np
import pytest

from citybrain.core.errors import BadData, BadPackage, ModelFailed
from citybrain.core.tensors import bytes_array
from citybrain.models.images import encode_png
from citybrain.models.package import Manifest
from citybrain.models.task import open_task

OPTIONS = {
    "labels": ["clean", "rubbish", "water"], "image_size": 16,
    "mean": [0.5, 0.4, 0.3], "std": [0.5, 0.2, 0.1],
}  # fmt: skip


def task(**options):
    return open_task(Manifest.model_validate({
        "name": "street", "title": {"zh": "街", "en": "Street"}, "task": "image-classification",
        "runtime": "onnx", "weights": "m.onnx", "domain": "city-management", "owner": "city",
        "licence": "Apache-2.0", "options": OPTIONS | options,
    }))  # fmt: skip


def plain(red, green, blue, height=20, width=50):
    return encode_png(np.full((height, width, 3), (red, green, blue), np.uint8))


def test_pixels_are_resized_and_normalised_by_channel():
    images = task().prepare({"image": bytes_array([plain(255, 102, 51)])})["images"]
    assert images.shape == (1, 3, 16, 16)
    assert images.dtype == np.float32
    assert images[0, 0] == pytest.approx(1.0)  # (1.0 - 0.5) / 0.5
    assert images[0, 1] == pytest.approx(0.0, abs=1e-5)  # (0.4 - 0.4) / 0.2
    assert images[0, 2] == pytest.approx(-1.0)  # (0.2 - 0.3) / 0.1


def test_logits_become_the_softmax_and_the_best_label():
    inputs = {"image": bytes_array([plain(1, 2, 3)] * 2)}
    logits = np.array([[0.0, np.log(3.0), -1000.0], [2000.0, 0.0, 0.0]], np.float32)
    first, second = task().write(task().finish({"logits": logits}, inputs))
    assert first.label == "rubbish"
    assert first.probabilities == pytest.approx({"clean": 0.25, "rubbish": 0.75, "water": 0.0})
    assert second.probabilities["clean"] == pytest.approx(1.0)


def test_logits_of_another_number_of_classes_are_the_models_fault():
    inputs = {"image": bytes_array([plain(1, 2, 3)])}
    with pytest.raises(ModelFailed, match=r"FP32\[n,3\]"):
        task().finish({"logits": np.zeros((1, 5), np.float32)}, inputs)


def test_options_that_would_divide_by_zero_are_refused():
    with pytest.raises(BadPackage, match=r"options\.std"):
        task(std=[1.0, 0.0, 1.0])


def test_a_folder_a_class_is_read(tmp_path):
    for label, count in (("clean", 2), ("water", 1)):
        (tmp_path / label).mkdir()
        for number in range(count):
            (tmp_path / label / f"{number}.png").write_bytes(plain(number, 0, 0))
    (tmp_path / "clean" / "notes.txt").write_text("not an image")
    samples = task().samples(tmp_path)
    assert [(s.name, s.truth.label) for s in samples] == [
        ("clean/0.png", "clean"), ("clean/1.png", "clean"), ("water/0.png", "water"),
    ]  # fmt: skip
    inputs = samples[0].inputs
    assert task().signature().check_inputs(inputs) == 1


def test_a_bad_file_or_an_unknown_class_is_named(tmp_path):
    with pytest.raises(BadData, match="holds no images"):
        task().samples(tmp_path)
    (tmp_path / "clean").mkdir()
    (tmp_path / "clean" / "bad.jpg").write_bytes(b"\xff\xd8\xffnothing")
    with pytest.raises(BadData, match=r"^clean/bad\.jpg: the image is broken"):
        task().samples(tmp_path)
    (tmp_path / "clean" / "bad.jpg").unlink()
    (tmp_path / "snow").mkdir()
    (tmp_path / "snow" / "a.png").write_bytes(plain(0, 0, 0))
    with pytest.raises(BadData, match=r"snow/a\.png: the algorithm knows no class 'snow'"):
        task().samples(tmp_path)


def test_the_example_is_a_valid_call():
    classification = task()
    inputs = classification.read(classification.example())
    assert classification.signature().check_inputs(inputs) == 1
    assert classification.prepare(inputs)["images"].shape == (1, 3, 16, 16)
