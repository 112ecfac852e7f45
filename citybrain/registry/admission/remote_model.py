"""The JSON that names a model on another server: which task it answers, with which tensors."""

from __future__ import annotations

import shutil
from pathlib import Path

from citybrain.models.converter import Draft, Wanted, tensor_options
from citybrain.models.remote import REMOTE_FILE, read_remote


def as_draft(source: Path, out: Path, wanted: Wanted) -> Draft:
    """Without a task its tensors are passed through; nothing is asked of the server here."""
    model = read_remote(source)
    shutil.copyfile(source, out / REMOTE_FILE)
    task = wanted.task or "tensor"
    return Draft(
        REMOTE_FILE, runtime="triton", task=task, max_batch=model.rows_at_once(),
        options=tensor_options(model.signature()) if task == "tensor" else {},
        facts={"address": model.address},
    )  # fmt: skip
