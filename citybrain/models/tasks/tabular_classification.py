"""`tabular-classification`: a row of numbers to one of a few classes, with probabilities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from citybrain.core.errors import BadTensor
from citybrain.core.tensors import Signature, Tensors, TensorSpec, bytes_array
from citybrain.models.datasets.table import read_table
from citybrain.models.package import Strict
from citybrain.models.task import TASKS, Item, Sample, Task


class TabularOptions(Strict):
    """Column names in the model's order, and the classes."""

    features: list[str] = Field(min_length=1)
    labels: list[str] = Field(min_length=2)
    target: str = "label"
    example: dict[str, float] = Field(default_factory=dict)


class TableRow(Item):
    """A row: a number for each feature by name."""

    features: dict[str, float]


class TableClass(Item):
    """The most probable class and the probability of each."""

    label: str
    probabilities: dict[str, float]


@TASKS.add("tabular-classification")
class TabularClassification(Task):
    """Model: `FP32[n,f]` to an output `probabilities` `FP32[n,c]`, rows summing to 1."""

    Options = TabularOptions
    Input = TableRow
    Output = TableClass
    default_metrics = ("macro-f1", "accuracy")

    def signature(self) -> Signature:
        return Signature(
            (TensorSpec("features", "FP32", (-1, len(self.options.features))),),
            (
                TensorSpec("label", "BYTES", (-1,)),
                TensorSpec("probabilities", "FP32", (-1, len(self.options.labels))),
            ),
        )

    def example(self) -> list[TableRow]:
        known = self.options.example
        return [TableRow({name: known.get(name, 0.0) for name in self.options.features})]

    def read(self, items: list[TableRow]) -> Tensors:
        names = self.options.features
        rows = []
        for index, item in enumerate(items):
            if item.features.keys() != set(names):
                wrong = sorted(item.features.keys() ^ set(names))[:5]
                raise BadTensor(
                    f"Item {index}: missing or unknown features: {', '.join(wrong)[:200]}.",
                    hint=f"The features are: {', '.join(names)}.",
                )
            rows.append([item.features[name] for name in names])
        return {"features": np.array(rows, dtype=np.float32).reshape(len(items), len(names))}

    def finish(self, outputs: Tensors, inputs: Tensors) -> Tensors:
        probabilities = outputs["probabilities"].astype(np.float32)
        labels = [label.encode() for label in self.options.labels]
        best = probabilities.argmax(axis=1)
        return {
            "label": bytes_array([labels[i] for i in best]),
            "probabilities": probabilities,
        }

    def write(self, outputs: Tensors) -> list[TableClass]:
        names = self.options.labels
        return [
            TableClass(label.decode(), dict(zip(names, row.tolist(), strict=True)))
            for label, row in zip(outputs["label"], outputs["probabilities"], strict=True)
        ]

    def samples(self, path: Path) -> list[Sample]:
        table = read_table(path, target=self.options.target)
        missing = [name for name in self.options.features if name not in table.columns]
        if missing:
            raise BadTensor(f"{path.name} lacks the columns {', '.join(missing[:5])}.")
        features = table.matrix(self.options.features)
        return [
            Sample(
                {"features": features[i : i + 1]},
                TableClass(label, {}),
                tags,
                f"row {i + 1}",
            )
            for i, (label, tags) in enumerate(zip(table.labels, table.tags, strict=True))
        ]
