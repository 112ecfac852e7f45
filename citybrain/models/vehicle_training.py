"""The training process of the vehicle detector: the only place that imports ultralytics.

Run as `python -m citybrain.models.vehicle_training` with a job as JSON on standard input; answers
with JSON lines on standard output. A process of its own, because ultralytics (AGPL-3.0) changes
global state, reads environment variables and prints; none of it reaches the platform.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from citybrain.core.tensors import Array

ARCHITECTURE = "yolo26n.yaml"  # built from its description: no weights are loaded or fetched
WEIGHTS = "detector.onnx"
MAX_OBJECTS = 100
WARM_UP = 0.08  # share of the steps in which the learning rate rises
INTEGRATIONS = ("clearml", "comet", "dvc", "hub", "mlflow", "neptune", "raytune", "sync",
                "tensorboard", "wandb")  # fmt: skip


@dataclass(frozen=True)
class Job:
    """What to train: images and labels lie below `work`, the answer goes there too."""

    work: str
    names: list[str]
    image_size: int
    epochs: int
    batch: int
    seconds: float
    seed: int
    mosaic: float
    rate: float

    def to_json(self) -> str:
        """The job as one line."""
        return json.dumps(asdict(self))


def main() -> None:
    """Read a job, train, export, tell how good it is."""
    # Libraries print; the lines of the answer go to the real standard output alone.
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)

    def tell(**facts: Any) -> None:
        answers.write(json.dumps(facts) + "\n")

    job = Job(**json.loads(sys.stdin.readline()))
    started = time.monotonic()
    tell(share=0.0, text="starting ultralytics")
    course = _course(job, started, tell)
    course.train()
    tell(share=0.95, text="writing ONNX")
    _export(course.ema.ema, Path(job.work), job.image_size)
    results = course.validator.metrics
    tell(
        share=1.0,
        text="done",
        done={
            "map50": float(results.box.map50),
            "map50-95": float(results.box.map),
            "precision": float(results.box.mp),
            "recall": float(results.box.mr),
        },
        confidence=_best_confidence(results.box),
    )


def _course(job: Job, started: float, tell: Any) -> Any:
    """An ultralytics trainer that keeps its weights in memory and follows the clock."""
    import torch
    from ultralytics import settings
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.utils.torch_utils import unwrap_model

    settings.update({name: False for name in INTEGRATIONS if name in settings})
    work = Path(job.work)

    class Course(DetectionTrainer):  # type: ignore[misc]  # ultralytics is untyped
        """No checkpoints: they would be pickles, and this process ends with an ONNX file."""

        step = 0
        boot = 0.0

        def get_dataset(self) -> dict[str, Any]:
            # Written by the recipe a moment ago; ultralytics' own check would look for a font.
            return {
                "path": work,
                "train": str(work / "images" / "train"),
                "val": str(work / "images" / "val"),
                "names": dict(enumerate(job.names)),
                "nc": len(job.names),
                "channels": 3,
            }

        def save_model(self) -> bool:
            return False

        def final_eval(self) -> None:
            """The last epoch's validation is the one that counts."""

        def save_metrics(self, metrics: dict[str, float]) -> None:
            """The recipe keeps the metrics."""

    course = Course(
        overrides={
            "task": "detect", "mode": "train", "model": ARCHITECTURE, "pretrained": False,
            "epochs": job.epochs, "batch": job.batch, "nbs": job.batch, "imgsz": job.image_size,
            "device": "cpu", "workers": 0, "amp": False, "seed": job.seed, "deterministic": True,
            "optimizer": "AdamW", "lr0": job.rate, "lrf": 1.0, "momentum": 0.9,
            "weight_decay": 0.0005, "warmup_epochs": 0.0, "patience": 0,
            "mosaic": job.mosaic, "close_mosaic": max(1, job.epochs // 4), "scale": 0.3,
            "translate": 0.1, "fliplr": 0.5, "flipud": 0.3, "hsv_h": 0.01, "hsv_s": 0.3,
            "hsv_v": 0.2, "erasing": 0.0, "plots": False, "save": False, "val": False,
            "verbose": False, "max_det": MAX_OBJECTS, "project": str(work), "name": "run",
            "exist_ok": True,
        }
    )  # fmt: skip

    def spent() -> float:
        """Share of the training time, which ends early enough to validate and to write ONNX."""
        begun_at: float = course.boot
        # What comes after the training takes about as long as what came before it, at whatever
        # speed this machine runs now.
        boot = begun_at - started
        trained = time.monotonic() - begun_at
        return trained / max(job.seconds - 2.0 * boot, 1.0)

    def done(trainer: Any) -> float:
        # The clock counts where it is ahead of the steps: on a slow machine the learning rate
        # still ends at nothing when the time is over.
        steps: int = len(trainer.train_loader) * job.epochs
        taken: int = trainer.step
        return min(1.0, max(taken / steps, spent()))

    def before(trainer: Any) -> None:
        for group in trainer.optimizer.param_groups:
            group["lr"] = job.rate * _shape(done(trainer))

    def after(trainer: Any) -> None:
        trainer.step += 1
        trainer.stop = trainer.stop or spent() >= 1.0
        text = f"epoch {trainer.epoch + 1} of {job.epochs}"
        tell(share=0.93 * done(trainer), text=text)

    def begun(trainer: Any) -> None:
        course.boot = time.monotonic()
        # Validate the head that is exported, the one without doubles.
        trainer.ema.ema.end2end = unwrap_model(trainer.model).end2end = True
        # Pixel by pixel in memory: a fifth faster on a CPU.
        unwrap_model(trainer.model).to(memory_format=torch.channels_last)
        # So few steps that the usual slow averages would still remember the first, random ones.
        for module in unwrap_model(trainer.model).modules():
            if hasattr(module, "running_mean"):
                module.momentum = 0.1

    course.add_callback("on_pretrain_routine_end", begun)
    course.add_callback("on_train_batch_start", before)
    course.add_callback("on_train_batch_end", after)
    return course


def _shape(share: float) -> float:
    """The learning rate's course from 0 to 1: a short rise, then half a cosine to 1 %."""
    if share < WARM_UP:
        return max(0.02, share / WARM_UP)
    return 0.01 + 0.495 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP)))


def _best_confidence(box: Any) -> float:
    """The score at which precision and recall balance best (the highest F1) in validation."""
    curve: Array = box.f1_curve.mean(axis=0)
    return float(box.px[int(curve.argmax())]) if curve.size else 0.25


def _export(model: Any, work: Path, size: int) -> None:
    """One ONNX file, any number of images a call, doubles removed by the one-to-one head."""
    import onnx
    from ultralytics.engine.exporter import Exporter

    model.task = "detect"
    model.pt_path = str(work / Path(WEIGHTS).with_suffix(".pt"))  # only its name is used
    made = Exporter(
        overrides={
            "format": "onnx", "imgsz": size, "dynamic": True, "simplify": False, "nms": False,
            "max_det": MAX_OBJECTS, "device": "cpu",
        }
    )(model=model)  # fmt: skip
    graph: Any = onnx.load(made)
    # Paths of this machine and the time of day have no place in a model that others get.
    kept = [
        item for item in graph.metadata_props if item.key not in {"date", "description", "args"}
    ]
    del graph.metadata_props[:]
    graph.metadata_props.extend(kept)
    note = graph.metadata_props.add()
    note.key, note.value = "description", f"{Path(ARCHITECTURE).stem}, trained from nothing"
    onnx.save(graph, made)


if __name__ == "__main__":
    main()
