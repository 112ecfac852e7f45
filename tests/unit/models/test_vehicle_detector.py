"""The vehicle recipe: its scenes, its data sets, what it asks for before it trains."""

import numpy as np
import pytest

from citybrain.core.errors import BadData, MissingLibrary
from citybrain.models.datasets.yolo_folder import read_yolo
from citybrain.models.images import encode_png
from citybrain.models.recipe import RECIPES, quiet
from citybrain.models.recipes import vehicle_detector
from citybrain.models.street_scenes import scenes


def folder(path, label, count):
    for part in ("images", "labels"):
        (path / part).mkdir(parents=True)
    for number in range(count):
        picture = np.full((40, 80, 3), number, np.uint8)
        (path / "images" / f"{number}.png").write_bytes(encode_png(picture))
        (path / "labels" / f"{number}.txt").write_text(label)
    return path


def test_equal_seeds_draw_equal_scenes_whose_vehicles_can_be_seen():
    first, again, other = (next(scenes(seed, 1)) for seed in ([5, 1], [5, 1], [5, 2]))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.boxes, again.boxes)
    assert not np.array_equal(first.image, other.image)
    drawn = list(scenes([7, 1], 16))
    assert {(s.tags["light"], s.tags["weather"]) for s in drawn} == {
        ("day", "clear"), ("day", "rain"), ("night", "clear"), ("night", "rain"),
    }  # fmt: skip
    boxes = np.concatenate([scene.boxes for scene in drawn])
    assert len(boxes) > 40
    assert (boxes[:, 2:] - boxes[:, :2]).min() >= 5
    assert boxes.min() >= 0
    assert boxes.max() <= 256


def test_the_recipe_writes_a_data_set_that_reads_back(tmp_path, monkeypatch):
    monkeypatch.setattr(vehicle_detector, "SCENES", {"train": 8, "test": 4})
    recipe = RECIPES.get("vehicle-detector")
    train, test = (recipe.generate(tmp_path / p, seed=3, part=p) for p in ("train", "test"))
    again = recipe.generate(tmp_path / "again", seed=3, part="train")
    files = sorted(path.relative_to(train) for path in train.rglob("*.*"))
    assert all((train / f).read_bytes() == (again / f).read_bytes() for f in files)
    images = read_yolo(test).images
    assert [image.tags["light"] for image in images] == ["day", "night"] * 2
    assert sum(len(image.boxes()) for image in images) > 4
    pictures = {image.read() for image in images + read_yolo(train).images}
    assert len(pictures) == 12


def test_training_asks_for_ultralytics_and_for_enough_labelled_images(tmp_path, monkeypatch):
    recipe = RECIPES.get("vehicle-detector")

    def train(data):
        recipe.train(data, tmp_path / "out", seed=0, budget=5, progress=quiet)

    with monkeypatch.context() as without:
        without.setattr(vehicle_detector, "find_spec", lambda name: None)
        with pytest.raises(MissingLibrary, match=r"pip install 'citybrain\[ultralytics\]'"):
            train(tmp_path)
    monkeypatch.setattr(vehicle_detector, "find_spec", lambda name: name)
    with pytest.raises(BadData, match="No label file names an object"):
        train(folder(tmp_path / "empty", "", 12))
    with pytest.raises(BadData, match="too few"):
        train(folder(tmp_path / "few", "0 0.5 0.5 0.2 0.4", 9))


def test_classes_are_numbered_as_they_occur_and_named_as_the_folder_says(tmp_path):
    data = folder(tmp_path / "d", "3 0.5 0.5 0.2 0.4\n0 0.2 0.2 0.1 0.1\n", 2)
    assert vehicle_detector._classes(read_yolo(data)) == ({0: 0, 3: 1}, ["vehicle", "class 3"])
    (data / "data.yaml").write_text("names: {0: Car, 3: Bus}")
    assert vehicle_detector._classes(read_yolo(data)) == ({0: 0, 3: 1}, ["Car", "Bus"])


def test_the_image_size_follows_the_budget_and_the_pictures(tmp_path):
    small = read_yolo(folder(tmp_path / "d", "", 1))
    assert [vehicle_detector._image_size(small, b) for b in (60, 240, 900)] == [160] * 3
    wide = tmp_path / "wide"
    folder(wide, "", 1)
    (wide / "images" / "0.png").write_bytes(encode_png(np.zeros((300, 1000, 3), np.uint8)))
    sizes = [vehicle_detector._image_size(read_yolo(wide), b) for b in (60, 240, 900)]
    assert sizes == [160, 320, 480]
