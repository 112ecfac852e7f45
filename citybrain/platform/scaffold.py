"""What `citybrain init` writes."""

from __future__ import annotations

from pathlib import Path

from citybrain.core.errors import NameTaken
from citybrain.core.names import check_name
from citybrain.models.package import MANIFEST
from citybrain.models.runtime import RUNTIMES
from citybrain.models.task import TASKS

WEIGHTS = {"onnx": "model.onnx", "torch": "model.safetensors", "ultralytics": "model.onnx",
           "transformers": "config.json"}  # fmt: skip

TEMPLATE = """\
format: 1
name: {name}                 # 2-63 lower-case letters, digits, hyphens; the same for all versions
title: {{zh: {name}, en: {name}}}   # what people read in the console
description: ""              # what it does, for whom, where its limits are
task: {task}
runtime: {runtime}
weights: {weights}           # a file in this folder; never a pickle
domain: government           # traffic, safety, city-management, tourism, health, environment, ...
owner: platform              # the department that answers for it
licence: Apache-2.0          # SPDX id of the weights
max_batch: 64                # rows in one model call
options:                     # what the task asks for
{options}
level: internal              # public, internal, sensitive or personal: what its data are
purposes: []                 # what it was made for and may be granted for; empty: anything
limits: []                   # where it should not be used, a sentence each
training_data: ""            # what it was trained on, for people
contact: ""                  # whom to ask
lineage:                     # where the weights come from
  source: ""
"""


def write_scaffold(folder: Path, task: str, runtime: str) -> Path:
    """Write a new `algorithm.yaml` whose fields explain themselves; never over an old one."""
    name = check_name(folder.name, "algorithm name")
    options = TASKS.get(task).Options
    RUNTIMES.get(runtime)
    path = folder / MANIFEST
    if path.exists():
        raise NameTaken(f"{path} exists.", hint="Choose another folder, or edit that file.")
    lines = []
    for field, info in options.model_fields.items():
        if info.is_required():
            lines.append(f"  {field}: ...  # required: {info.annotation}")
        else:
            default = info.get_default(call_default_factory=True)
            lines.append(f"  # {field}: {default!r}")
    text = TEMPLATE.format(
        name=name, task=task, runtime=runtime, weights=WEIGHTS.get(runtime, "model.bin"),
        options="\n".join(lines),
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
