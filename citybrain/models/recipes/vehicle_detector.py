"""`vehicle-detector`: vehicles in camera pictures, by day, night and rain.

The data are generated street scenes (`street_scenes.py`); a folder in the YOLO layout trains the
same way. The network is ultralytics' nano detector, from random weights, in a process of its own
(`vehicle_training.py`); what comes back is an ONNX file that is served without ultralytics.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import citybrain
from citybrain.core.errors import BadData, ModelFailed
from citybrain.core.settings import QUIET_LIBRARIES, child_environment
from citybrain.core.shelf import needs
from citybrain.core.tensors import Array
from citybrain.models.datasets.yolo_folder import LabelledImage, YoloFolder, read_yolo
from citybrain.models.images import Fit, decode, resize
from citybrain.models.package import MANIFEST
from citybrain.models.recipe import RECIPES, Progress, Recipe
from citybrain.models.street_scenes import scenes
from citybrain.models.vehicle_training import WEIGHTS, Job

SCENES = {"train": 560, "test": 80}
SMALLEST = 160  # pixels; in a minute, seeing more pictures is worth more than seeing them larger
BATCH = 4
SPEED = 52.0  # images a second and training pass at 192 pixels, on one core of 2024
STARTUP = 12.0  # seconds to start the libraries, to validate and to write ONNX
FEWEST_EPOCHS = 3
LEARNING_RATE = 0.004


@RECIPES.add("vehicle-detector")
class VehicleDetector(Recipe):
    """Detection, ultralytics: trained from nothing, served as ONNX."""

    task = "object-detection"
    summary = "Vehicles in street pictures (generated scenes; YOLO nano from random weights, ONNX)"
    budget = 100.0

    def generate(self, folder: Path, *, seed: int, part: str) -> Path:
        with needs():
            from PIL import Image
        for name in ("images", "labels"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        rows = []
        # Another branch of the seed sequence for each part: no scene is in both.
        for number, scene in enumerate(scenes([seed, 1 if part == "train" else 2], SCENES[part])):
            name = f"scene-{number:04d}"
            side = scene.image.shape[0]
            Image.fromarray(scene.image).save(folder / "images" / f"{name}.jpg", quality=90)
            centre, size = (scene.boxes[:, :2] + scene.boxes[:, 2:]) / 2, np.diff(
                scene.boxes.reshape(-1, 2, 2), axis=1
            )[:, 0]  # fmt: skip
            shares = np.concatenate([centre, size], axis=1) / side
            lines = ["0 " + " ".join(f"{value:.6f}" for value in row) for row in shares]
            (folder / "labels" / f"{name}.txt").write_text("\n".join(lines) + "\n" * bool(lines))
            rows.append({"file": f"{name}.jpg", **scene.tags})
        with (folder / "tags.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        (folder / "data.yaml").write_text("names: [vehicle]\n")
        return folder

    def train(
        self, data: Path, out: Path, *, seed: int, budget: float, progress: Progress
    ) -> dict[str, float]:
        started = time.monotonic()
        with needs("ultralytics"):
            # Asked, not imported: the platform's own processes never load it.
            if find_spec("ultralytics") is None:
                raise ModuleNotFoundError(name="ultralytics")
        progress(0.0, "reading the images")
        folder = read_yolo(data)
        kinds, names = _classes(folder)
        size = _image_size(folder, budget)
        visits = int(SPEED * (192 / size) ** 2 * max(budget * 0.85 - STARTUP, 5.0))
        training, validation = _split(folder.images, seed, visits)
        with tempfile.TemporaryDirectory(prefix="vehicle-training-") as work:
            for part, images in (("train", training), ("val", validation)):
                _stage(Path(work), part, images, kinds, size)
            progress(0.05, "starting the training")
            epochs = max(FEWEST_EPOCHS, round(visits / len(training)))
            job = Job(
                work=work,
                names=names,
                image_size=size,
                epochs=epochs,
                batch=BATCH,
                seconds=self.patience * budget * 0.97 - (time.monotonic() - started),
                seed=seed,
                # Few pictures seen often need more variety than they bring themselves.
                mosaic=0.5 if epochs > 12 else 0.0,
                rate=LEARNING_RATE,
            )
            result = _run(job, progress)
            out.mkdir(parents=True, exist_ok=True)
            (out / WEIGHTS).write_bytes((Path(work) / WEIGHTS).read_bytes())
        _write_manifest(out, names, size, result["confidence"])
        progress(1.0, "done")
        metrics: dict[str, float] = result["done"]
        return metrics


def _classes(folder: YoloFolder) -> tuple[dict[int, int], list[str]]:
    """The model's number of each class id that occurs, and the names in that order."""
    found = sorted({kind for image in folder.images for kind in image.classes.tolist()})
    if not found:
        raise BadData("No label file names an object.", hint="Put boxes into labels/*.txt.")
    unnamed = {0: "vehicle"}
    names = [folder.names.get(kind) or unnamed.get(kind, f"class {kind}") for kind in found]
    return {kind: index for index, kind in enumerate(found)}, names


def _image_size(folder: YoloFolder, budget: float) -> int:
    """The side of the model's square: what the time allows, never above the pictures' own."""
    wanted = SMALLEST if budget <= 120 else 480 if budget >= 900 else 320
    longest = max(max(image.width, image.height) for image in folder.images)
    return min(wanted, max(SMALLEST, -(-longest // 32) * 32))


def _split(
    images: list[LabelledImage], seed: int, visits: int
) -> tuple[list[LabelledImage], list[LabelledImage]]:
    """Training and validation part; no more images than the time allows to see a few times."""
    if len(images) < 10:
        raise BadData(f"{len(images)} images are too few to train on; 10 is the least.")
    order = np.random.default_rng(seed).permutation(len(images)).tolist()
    held = min(200, max(2, len(images) * 15 // 100))
    training = order[held : held + max(BATCH, visits // FEWEST_EPOCHS)]
    if not any(len(images[index].classes) for index in training):
        raise BadData("The training part has no objects.", hint="Label more images.")
    return [images[index] for index in sorted(training)], [images[i] for i in sorted(order[:held])]


def _stage(
    work: Path, part: str, images: list[LabelledImage], kinds: dict[int, int], size: int
) -> None:
    """Write decoded, upright, small copies: the trainer never sees a stranger's file."""
    with needs():
        from PIL import Image
    pictures, labels = work / "images" / part, work / "labels" / part
    pictures.mkdir(parents=True)
    labels.mkdir(parents=True)
    for number, image in enumerate(images):
        try:
            pixels: Array = decode(image.read(), at_least=size)
        except Exception as error:
            reason = getattr(error, "message", "it cannot be decoded.").removeprefix("Item 0: ")
            raise BadData(f"images/{image.name}: {reason}") from error
        wide, high = Fit(pixels.shape[1], pixels.shape[0], size).inner
        Image.fromarray(resize(pixels, wide, high)).save(pictures / f"{number:06d}.bmp")
        boxes = image.boxes() / np.array([image.width, image.height] * 2)
        rows = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)
        lines = [
            f"{kinds[kind]} " + " ".join(f"{value:.6f}" for value in row)
            for kind, row in zip(image.classes.tolist(), rows.tolist(), strict=True)
        ]
        (labels / f"{number:06d}.txt").write_text("\n".join(lines))


def _run(job: Job, progress: Progress) -> dict[str, Any]:
    """The training process: its progress as it comes, its result at the end."""
    root = Path(citybrain.__file__).parents[1]
    environment = child_environment(
        QUIET_LIBRARIES
        | {
            "YOLO_CONFIG_DIR": job.work,
            "YOLO_VERBOSE": "false",
            "MPLCONFIGDIR": job.work,
            "PYTHONPATH": str(root),
            "PYTHONWARNINGS": "ignore",
            # Threads that spin while they wait steal the cores from whoever else works here.
            "OMP_WAIT_POLICY": "PASSIVE",
        }
    )
    result: dict[str, Any] = {}
    noise = Path(job.work) / "noise.log"
    with noise.open("w", encoding="utf-8") as log, subprocess.Popen(
        [sys.executable, "-P", "-m", "citybrain.models.vehicle_training"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8",
        cwd=job.work, env=environment,
    ) as child:  # fmt: skip
        try:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(job.to_json() + "\n")
            child.stdin.close()
            for line in child.stdout:
                facts = json.loads(line)
                progress(0.05 + 0.94 * facts["share"], facts["text"])
                result |= facts
        finally:
            child.kill()  # an answer was read to its end, or nobody waits for it any more
    if "done" not in result:
        last = (noise.read_text(encoding="utf-8").strip().splitlines() or ["no message"])[-1]
        raise ModelFailed(
            f"The training process stopped: {last.replace(job.work, '').replace(str(root), '')[:300]}"
        )
    return result


def _write_manifest(out: Path, names: list[str], size: int, confidence: float) -> None:
    manifest = {
        "format": 1,
        "name": "vehicle-detector",
        "title": {"zh": "车辆检测", "en": "Vehicle detector"},
        "description": "Vehicles in pictures of roads, from above or from a mast.",
        "task": "object-detection",
        "runtime": "ultralytics",
        "weights": WEIGHTS,
        "domain": "traffic",
        "owner": "traffic",
        "licence": "AGPL-3.0",
        "max_batch": 32,
        "options": {
            "labels": names,
            "image_size": size,
            # Half the best: what comes with a score may be sifted again, what is missing may not.
            "confidence": round(min(0.3, max(0.05, confidence / 2)), 2),
        },
    }
    text = yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True)
    (out / MANIFEST).write_text(text, encoding="utf-8")
