"""`composition`: what a pipeline takes and gives, when no other task says it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from pydantic import Field

from citybrain.core.errors import BadJson, InvalidInput
from citybrain.core.tensors import Signature, Tensors, TensorSpec, bytes_array
from citybrain.models.package import Strict
from citybrain.models.task import TASKS, Task


class CompositionOptions(Strict):
    """An item of every call has the fields of the example's first item."""

    example: list[dict[str, Any]] = Field(min_length=1, max_length=2)
    media: Literal["", "image", "audio"] = Field(
        default="", description="What the first step also takes as files."
    )


@TASKS.add("composition")
class CompositionTask(Task):
    """JSON objects in, JSON values out; as tensors, each is a JSON text (BYTES) of its own."""

    Options = CompositionOptions
    Input = dict[str, Any]
    Output = dict[str, Any]

    def signature(self) -> Signature:
        return Signature(
            (TensorSpec("input", "BYTES", (-1,)),), (TensorSpec("output", "BYTES", (-1,)),)
        )

    def example(self) -> list[dict[str, Any]]:
        return [dict(item) for item in self.options.example]

    def read(self, items: list[dict[str, Any]]) -> Tensors:
        self.check(items)
        return {"input": bytes_array([msgspec.json.encode(item) for item in items])}

    def write(self, outputs: Tensors) -> list[Any]:
        return [msgspec.json.decode(text) for text in outputs["output"]]

    def items(self, inputs: Tensors) -> list[dict[str, Any]]:
        """The other way of `read`; BadJson where a text is none."""
        try:
            items = [msgspec.json.decode(text) for text in inputs["input"]]
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            raise BadJson("An element of the tensor 'input' is not JSON.") from error
        self.check(items)
        return items

    def check(self, items: list[Any]) -> None:
        """InvalidInput names the item whose fields are others than those of the example."""
        fields = self.options.example[0].keys()
        for number, item in enumerate(items):
            if not isinstance(item, dict) or item.keys() != fields:
                raise InvalidInput(
                    f"Item {number} must be an object with the fields {', '.join(fields) or 'none'}.",
                    hint="citybrain predict NAME --example shows one.",
                )
