"""Real samples of a scenario, as a model's own inputs: what a converted form is compared on besides noise."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from citybrain.core.errors import CityBrainError, TooLarge
from citybrain.core.tensors import Tensors
from citybrain.models.task import Task

COUNT = 16
"""Samples, spread over the data."""
MAX_BYTES = 512 << 20
FOLDER = "data"
"""Where a sandbox finds them: a folder with the data set's one file or folder in it."""


@dataclass
class RealCalls:
    """The model's inputs of each sample, or why there are none."""

    calls: list[Tensors] = field(default_factory=list)
    unread: str = ""


def put_data(data: Path, work: Path) -> None:
    """Copy a data set into a sandbox's folder; TooLarge beyond what is worth copying."""
    files = [data] if data.is_file() else [path for path in data.rglob("*") if path.is_file()]
    if sum(path.stat().st_size for path in files) > MAX_BYTES:
        raise TooLarge(
            f"{data.name} holds more than {MAX_BYTES >> 20} MB, which are not copied to compare with.",
            hint="Name a scenario with smaller data, or one that generates them.",
        )
    (work / FOLDER).mkdir(parents=True)
    copy: Callable[..., object] = shutil.copyfile if data.is_file() else shutil.copytree
    copy(data, work / FOLDER / data.name)


def real_calls(task: Task, work: Path) -> RealCalls:
    """Read what `put_data` left, in the task's own format; samples that the task refuses are left out."""
    if not (work / FOLDER).is_dir():
        return RealCalls()
    data = next((work / FOLDER).iterdir())
    try:
        samples = task.samples(data)
    except CityBrainError as error:
        return RealCalls(unread=f"The samples cannot be read: {error.message}")
    found = []
    for sample in samples[:: max(1, len(samples) // COUNT)][:COUNT]:
        with suppress(CityBrainError):
            found.append(task.prepare(sample.inputs))
    return RealCalls(found, "" if found else "The task takes none of the samples.")
