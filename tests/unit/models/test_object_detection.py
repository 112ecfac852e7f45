"""Detection: data sets, answers in the original's pixels, the runtime that serves the graphs."""

import base64
import json

import msgspec
import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper

from citybrain.core.errors import BadData, BadMedia, BadPackage, ModelFailed
from citybrain.core.tensors import bytes_array
from citybrain.evaluation.metric import BASELINES
from citybrain.models.datasets.yolo_folder import read_yolo
from citybrain.models.images import encode_png
from citybrain.models.package import Manifest, Package
from citybrain.models.predictor import Predictor
from citybrain.models.runtime import RUNTIMES
from citybrain.models.task import Sample, open_task

OPTIONS = {"labels": ["vehicle", "person"], "image_size": 64, "confidence": 0.25}
MANIFEST = {
    "name": "seen", "title": {"zh": "车", "en": "Seen"}, "task": "object-detection",
    "runtime": "ultralytics", "weights": "model.onnx", "domain": "traffic", "owner": "traffic",
    "licence": "AGPL-3.0", "options": OPTIONS,
}  # fmt: skip
IMAGE = np.zeros((50, 100, 3), np.uint8)


def task(**options):
    return open_task(Manifest.model_validate(MANIFEST | {"options": OPTIONS | options}))


def finish(rows, image=IMAGE, **options):
    """The task's `Output` for model rows on one image."""
    detection = task(**options)
    inputs = {"image": bytes_array([encode_png(image)])}
    found = np.array([rows], np.float32).reshape(1, -1, 6)
    return detection.write(detection.finish({"output0": found}, inputs))[0]


def package(folder, output, metadata=()):
    """A package whose graph answers every image with `output` [k, m]."""
    folder.mkdir(exist_ok=True)
    value = np.array(output, np.float32)[None]
    nodes = [
        helper.make_node("ReduceSum", ["images", "axes"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Reshape", ["nothing", "shape"], ["rows"]),
        helper.make_node("Add", ["rows", "value"], ["output0"]),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3]),
        helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0]),
        helper.make_tensor("shape", TensorProto.INT64, [3], [-1, 1, 1]),
        helper.make_tensor("value", TensorProto.FLOAT, value.shape, value.ravel()),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 64, 64])
    answer = helper.make_tensor_value_info("output0", TensorProto.FLOAT, ["n", *value.shape[1:]])
    graph = helper.make_graph(nodes, "fixed", [images], [answer], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, dict(metadata))
    onnx.save(model, folder / "model.onnx")
    (folder / "algorithm.yaml").write_text(yaml.safe_dump(MANIFEST))
    return folder


def yolo(folder, labels=("0 0.5 0.5 0.2 0.4\n",), **files):
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for number, text in enumerate(labels):
        (folder / "images" / f"{number}.png").write_bytes(encode_png(IMAGE))
        if text is not None:
            (folder / "labels" / f"{number}.txt").write_text(text)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


def test_boxes_come_back_in_pixels_of_the_original():
    # 100 x 50 in a square of 64: scale 0.64, 16 grey rows above and below.
    answer = finish([[6.4, 22.4, 32.0, 41.6, 0.9, 1]])
    (thing,) = answer.objects
    assert (thing.label, thing.score) == ("person", pytest.approx(0.9))
    assert thing.box == pytest.approx((10.0, 10.0, 50.0, 40.0), abs=0.01)
    assert (answer.width, answer.height) == (100, 50)


def test_answers_are_clipped_sorted_and_cut_at_the_confidence():
    answer = finish([
        [10, 20, 20, 30, 0.3, 0], [-50, -50, 500, 500, 0.8, 0], [1, 20, 9, 30, 0.2, 0],
    ])  # fmt: skip
    assert [thing.score for thing in answer.objects] == pytest.approx([0.8, 0.3])
    assert answer.objects[0].box == (0.0, 0.0, 100.0, 50.0)
    assert len(finish([[1, 20, 9, 30, 0.2, 0]], confidence=0.1).objects) == 1


@pytest.mark.parametrize(
    "row",
    [
        [10, 2, 20, 12, 0.9, 0],  # in the grey band above the image
        [20, 30, 10, 20, 0.9, 0],  # inside out
        [10, 20, 20, 30, 0.9, 7],  # a class that the options do not name
        [10, 20, np.nan, 30, 0.9, 0],
        [10, 20, 20, 30, np.nan, 0],
    ],
)
def test_rows_that_mean_nothing_are_left_out(row):
    assert finish([row]).objects == []


def test_at_most_a_hundred_things_are_reported():
    rows = [[5, 20, 20, 30, 0.3 + k / 1000, 0] for k in range(150)]
    objects = finish(rows).objects
    assert len(objects) == 100
    assert objects[0].score == pytest.approx(0.449)


def test_another_output_shape_is_the_models_fault():
    detection = task()
    inputs = {"image": bytes_array([encode_png(IMAGE)])}
    with pytest.raises(ModelFailed, match=r"FP32\[n,k,6\]"):
        detection.finish({"output0": np.zeros((1, 84, 100), np.float32)}, inputs)


def test_an_image_is_prepared_letterboxed_and_between_0_and_1():
    white = np.full((50, 100, 3), 255, np.uint8)
    images = task().prepare({"image": bytes_array([encode_png(white)])})["images"]
    assert images.shape == (1, 3, 64, 64)
    assert images.dtype == np.float32
    assert (images[:, :, 16:48] == 1.0).all()
    assert images[:, :, :16] == pytest.approx(114 / 255)


def test_items_travel_as_base64_in_json():
    body = json.dumps({"image": base64.b64encode(encode_png(IMAGE)).decode()})
    item = msgspec.json.decode(body, type=task().Input)
    assert task().read([item])["image"][0] == encode_png(IMAGE)
    answer = json.loads(msgspec.json.encode(finish([[10, 20, 20, 30, 0.5, 0]])))
    assert set(answer) == {"objects", "width", "height"}
    assert set(answer["objects"][0]) == {"label", "score", "box"}


def test_a_predictor_answers_images_of_any_size_and_names_the_bad_one(tmp_path):
    predictor = Predictor.open(package(tmp_path / "p", [[10, 20, 20, 30, 0.9, 0]]))
    predictor.warm_up()
    tall = encode_png(np.zeros((300, 30, 3), np.uint8))
    answers = predictor.predict([
        predictor.task.Input(encode_png(IMAGE)), predictor.task.Input(tall)
    ])  # fmt: skip
    assert [(a.width, a.height) for a in answers] == [(100, 50), (30, 300)]
    with pytest.raises(BadMedia, match="Item 1"):
        predictor.predict([predictor.task.Input(tall), predictor.task.Input(b"GIF89a")])


def test_raw_candidates_are_thinned_out_by_the_runtime(tmp_path):
    # cx cy w h, then a score a class: two heaps of the same thing, and another class on top of one.
    candidates = np.array([
        [20, 30, 10, 10, 0.9, 0.0], [20.5, 30, 10, 10, 0.8, 0.0], [20, 30, 10, 10, 0.0, 0.7],
        [50, 30, 10, 10, 0.6, 0.1],
    ]).T  # fmt: skip
    facts = {"task": "detect", "end2end": "False", "names": "{0: 'vehicle', 1: 'person'}"}
    runtime = RUNTIMES.get("ultralytics")
    runtime.load(Package.open(package(tmp_path / "p", candidates, facts)))
    (found,) = runtime.infer({"images": np.zeros((2, 3, 64, 64), np.float32)}).values()
    assert found.shape == (2, 100, 6)
    kept = found[1][found[1, :, 4] > 0]
    assert kept[:, 4] == pytest.approx([0.9, 0.7, 0.6])
    assert kept[:, 5].tolist() == [0, 1, 0]
    assert kept[0, :4] == pytest.approx([15, 25, 25, 35])
    assert runtime.describe()["task"] == "detect"


def test_a_pickled_weight_is_refused_with_the_command_that_exports_it(tmp_path):
    folder = package(tmp_path / "p", [[10, 20, 20, 30, 0.9, 0]])
    manifest = Manifest.model_validate(MANIFEST | {"weights": "best.pt"})
    with pytest.raises(BadPackage, match=r"yolo export model=best\.pt format=onnx"):
        RUNTIMES.get("ultralytics").load(Package(folder, manifest))


def test_a_data_set_is_read_with_names_and_tags(tmp_path):
    folder = yolo(
        tmp_path / "d", ["1 0.5 0.5 0.2 0.4\n0 0.1 0.1 0.1 0.1\n", "", None],
        data_yaml="names: [Vehicle, dog]\nnc: 2\n", tags_csv="file,light\n0.png,night\n",
    )  # fmt: skip
    samples = task().samples(folder)
    assert [thing.label for thing in samples[0].truth.objects] == ["dog", "vehicle"]
    assert samples[0].truth.objects[0].box == pytest.approx((40.0, 15.0, 60.0, 35.0))
    assert [len(sample.truth.objects) for sample in samples] == [2, 0, 0]
    assert [sample.tags for sample in samples] == [{"light": "night"}, {}, {}]
    assert (samples[0].truth.width, samples[0].truth.height) == (100, 50)


def test_one_class_each_is_the_same_class(tmp_path):
    folder = yolo(tmp_path / "d", ["3 0.5 0.5 0.2 0.4\n"])
    (sample,) = task(labels=["vehicle"]).samples(folder)
    assert sample.truth.objects[0].label == "vehicle"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 0.5 0.5 0.2", "five numbers"),
        ("0 0.5 0.5 0.2 0.2 0.9", "five numbers"),
        ("car 0.5 0.5 0.2 0.2", "not five numbers"),
        ("1.5 0.5 0.5 0.2 0.2", "whole number"),
        ("-1 0.5 0.5 0.2 0.2", "whole number"),
        ("0 0.5 0.5 0.2 nan", "inside the image"),
        ("0 0.5 0.5 0 0.2", "inside the image"),
        ("0 250 130 40 20", "inside the image"),
        ("0 0.95 0.5 0.2 0.2", "inside the image"),
    ],
)
def test_the_first_bad_line_is_named(tmp_path, line, reason):
    folder = yolo(tmp_path / "d", ["0 0.5 0.5 0.2 0.2\n", f"0 0.5 0.5 0.2 0.2\n{line}\n"])
    with pytest.raises(BadData, match=rf"^labels/1\.txt:2: .*{reason}") as caught:
        read_yolo(folder)
    assert str(tmp_path) not in str(caught.value)


def test_broken_folders_are_refused_with_the_file_that_is_wrong(tmp_path):
    with pytest.raises(BadData, match="no folder images/"):
        read_yolo(tmp_path)
    broken = yolo(tmp_path / "broken")
    (broken / "images" / "z.jpg").write_bytes(b"not an image")
    with pytest.raises(BadData, match=r"images/z\.jpg: not an image"):
        read_yolo(broken)
    tagged = yolo(tmp_path / "tagged", tags_csv="file,light\nlost.png,day\n")
    with pytest.raises(BadData, match=r"tags\.csv names 'lost\.png'"):
        read_yolo(tagged)
    unnamed = yolo(tmp_path / "unnamed", ["4 0.5 0.5 0.2 0.2"], data_yaml="names: [a, b]")
    with pytest.raises(BadData, match=r"labels/0\.txt: data\.yaml has no name for class 4"):
        read_yolo(unnamed)
    linked = yolo(tmp_path / "linked")
    (linked / "images" / "out.png").symlink_to(broken / "images" / "0.png")
    with pytest.raises(BadData, match=r"images/out\.png is a link out of the folder"):
        read_yolo(linked)


def test_the_baseline_finds_a_patch_on_a_plain_road():
    road = np.full((300, 600, 3), 90, np.uint8)
    road[100:160, 200:320] = (200, 40, 40)
    detection = task()
    sample = Sample({"image": bytes_array([encode_png(road)])}, None)
    blank = Sample({"image": bytes_array([encode_png(np.full((80, 80, 3), 9, np.uint8))])}, None)
    found, nothing = BASELINES.get("background-difference").answer([sample, blank], detection)
    (thing,) = found.objects
    assert thing.label == "vehicle"
    assert thing.box == pytest.approx((200, 100, 320, 160), abs=6)
    assert nothing.objects == []
    assert isinstance(found, detection.Output)
