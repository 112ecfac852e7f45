"""A valid body for the Open Inference Protocol, made of an algorithm's example."""

from __future__ import annotations

from typing import Any


def oip_example(manifest: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    """The example as a body for the Open Inference Protocol."""
    import msgspec
    import numpy as np

    from citybrain.core.tensors import datatype
    from citybrain.models.package import Manifest
    from citybrain.models.task import open_task

    task = open_task(Manifest.model_validate(manifest))
    items = msgspec.convert(example["inputs"], list[task.Input])  # type: ignore[name-defined]
    tensors = task.read(items)
    if any(a.dtype == np.object_ and _binary(a) for a in tensors.values()):
        return {"note": "This input is binary: send it with tritonclient, or use the task API."}
    return {
        "inputs": [
            {
                "name": name, "datatype": datatype(array), "shape": list(array.shape),
                "data": [v.decode() if isinstance(v, bytes) else v for v in array.ravel().tolist()],
            }
            for name, array in tensors.items()
        ]
    }  # fmt: skip


def _binary(array: Any) -> bool:
    try:
        return not all(value.decode().isprintable() for value in array.ravel())
    except UnicodeDecodeError:
        return True
