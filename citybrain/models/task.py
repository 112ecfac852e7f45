"""What a task is: the fixed shape of a question and its answer, whatever model stands behind.

Two forms of the same call meet here. *Items* are what a person writes: one JSON object for each
image, sentence or series (`Input`), one for each answer (`Output`). *Task tensors* are the same
as arrays with a batch axis, named by `signature()`; the Open Inference Protocol door speaks them
directly. A predictor turns task tensors into the model's own (`prepare`) and back (`finish`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import msgspec
from pydantic import ValidationError

from citybrain.core.errors import BadJson, BadPackage
from citybrain.core.shelf import Shelf
from citybrain.core.tensors import Signature, Tensors, stacked
from citybrain.models.package import Manifest, Strict


class Item(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Base of every task's `Input` and `Output`: decoded straight from JSON, typed and strict."""


class Sample(msgspec.Struct):
    """One example of a data set: task tensors of one row, the true `Output`, and tags for slices."""

    inputs: Tensors
    truth: Any
    tags: dict[str, str] = {}
    name: str = ""


class Piece(NamedTuple):
    """A part of a request that can be answered before the others."""

    row: int
    """The row of the request that it begins with, or is a part of."""
    inputs: Tensors
    told: dict[str, float] = {}  # noqa: RUF012 - of a tuple, never changed
    """What its answer says besides: where it lies in a recording, say."""


class Task(ABC):
    """One kind of question. A subclass is one file in `tasks/`; tests examine each the same way."""

    Options: ClassVar[type[Strict]]
    Input: ClassVar[type[Item]]
    Output: ClassVar[type[Item]]
    media: ClassVar[str] = ""
    """`image` or `audio` when an item may also come as a file (multipart)."""
    default_metrics: ClassVar[tuple[str, ...]] = ()
    unit: ClassVar[str] = "rows"
    """What its use is counted in, beside requests: `images`, `audio-seconds`, `texts`, `series`."""
    finite: ClassVar[bool] = True
    """Whether NaN or infinity in an answer means that the model failed."""

    options: Any
    folder: Path | None

    def open(self, manifest: Manifest, folder: Path | None = None) -> None:
        """Take the manifest's options; the folder is there in a replica, not at a door."""
        try:
            self.options = self.Options.model_validate(manifest.options)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(map(str, ("options", *first["loc"])))
            raise BadPackage(f"algorithm.yaml: {where}: {first['msg']}.") from error
        self.folder = folder

    @abstractmethod
    def signature(self) -> Signature:
        """The task tensors; the same for every version of an algorithm."""

    @abstractmethod
    def example(self) -> list[Any]:
        """One or two valid `Input` items, for `predict --example` and the console."""

    @abstractmethod
    def read(self, items: list[Any]) -> Tensors:
        """Items to task tensors of as many rows; InvalidInput names the item."""

    @abstractmethod
    def write(self, outputs: Tensors) -> list[Any]:
        """Task output tensors to one `Output` a row."""

    def prepare(self, inputs: Tensors) -> Tensors:
        """Task tensors of one request to the model's inputs, same number of rows."""
        return inputs

    def finish(self, outputs: Tensors, inputs: Tensors) -> Tensors:
        """The model's outputs of one request, with its task tensors, to task output tensors."""
        return outputs

    def measure(self, inputs: Tensors) -> float:
        """How much of its unit is in task tensors that were decoded and not checked yet."""
        return float(row_count(inputs))

    def pieces(self, inputs: Tensors, most: int) -> list[Piece]:
        """A checked request as pieces that answer one after another, in order; `most` rows each.

        A task whose rows can be long (sounds, texts to speak) may cut them, too.
        """
        rows = len(next(iter(inputs.values())))
        return [
            Piece(row, {name: array[row : row + most] for name, array in inputs.items()})
            for row in range(0, rows, most)
        ]

    def joined(self, pieces: list[Piece], answers: list[Tensors]) -> Tensors:
        """The answers to all pieces as that to the request."""
        return {name: stacked([answer[name] for answer in answers]) for name in answers[0]}

    def read_media(self, files: list[bytes]) -> Tensors:
        """Uploaded files to task tensors, one row a file."""
        raise BadJson("This algorithm takes JSON, not files.")

    def samples(self, path: Path) -> list[Sample]:
        """Read a data set in this task's format; BadData names the first bad line or file."""
        raise BadPackage("This task has no data format of its own.")


def row_count(tensors: Tensors) -> int:
    """Rows of tensors that were not checked yet; 0 where they have none."""
    first = next(iter(tensors.values()), None)
    return len(first) if first is not None and first.ndim else 0


TASKS: Shelf[Task] = Shelf("task", "citybrain.models.tasks")


def open_task(manifest: Manifest, folder: Path | None = None) -> Task:
    """The manifest's task, with its options."""
    task = TASKS.get(manifest.task)
    task.open(manifest, folder)
    return task
