"""What a task is: the fixed shape of a question and its answer, whatever model stands behind.

Two forms of the same call meet here. *Items* are what a person writes: one JSON object for each
image, sentence or series (`Input`), one for each answer (`Output`). *Task tensors* are the same
as arrays with a batch axis, named by `signature()`; the Open Inference Protocol door speaks them
directly. A predictor turns task tensors into the model's own (`prepare`) and back (`finish`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import msgspec
from pydantic import ValidationError

from citybrain.core.errors import BadJson, BadPackage
from citybrain.core.shelf import Shelf
from citybrain.core.tensors import Signature, Tensors
from citybrain.models.package import Manifest, Strict


class Item(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Base of every task's `Input` and `Output`: decoded straight from JSON, typed and strict."""


class Sample(msgspec.Struct):
    """One example of a data set: task tensors of one row, the true `Output`, and tags for slices."""

    inputs: Tensors
    truth: Any
    tags: dict[str, str] = {}
    name: str = ""


class Task(ABC):
    """One kind of question. A subclass is one file in `tasks/`; tests examine each the same way."""

    Options: ClassVar[type[Strict]]
    Input: ClassVar[type[Item]]
    Output: ClassVar[type[Item]]
    media: ClassVar[str] = ""
    """`image` or `audio` when an item may also come as a file (multipart)."""
    default_metrics: ClassVar[tuple[str, ...]] = ()

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

    def read_media(self, files: list[bytes]) -> Tensors:
        """Uploaded files to task tensors, one row a file."""
        raise BadJson("This algorithm takes JSON, not files.")

    def samples(self, path: Path) -> list[Sample]:
        """Read a data set in this task's format; BadData names the first bad line or file."""
        raise BadPackage("This task has no data format of its own.")


TASKS: Shelf[Task] = Shelf("task", "citybrain.models.tasks")


def open_task(manifest: Manifest, folder: Path | None = None) -> Task:
    """The manifest's task, with its options."""
    task = TASKS.get(manifest.task)
    task.open(manifest, folder)
    return task
