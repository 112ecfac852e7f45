"""What `register` sends: a folder's files, one file, or an address that the platform fetches from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Parts = list[tuple[str, tuple[str, bytes]]]


def form_of(
    source: Path | str, metrics: Mapping[str, float] | None, card: Mapping[str, Any] | None,
    scenario: str = "",
) -> dict[str, Any]:  # fmt: skip
    """The arguments `files` and `data` of the upload."""
    fields = {
        "metrics": json.dumps(dict(metrics or {})), "card": json.dumps(dict(card or {})),
        "scenario": scenario,
    }  # fmt: skip
    if isinstance(source, str):
        return {"data": {**fields, "source": source}}
    parts: Parts = [
        ("files", (path.relative_to(source).as_posix(), path.read_bytes()))
        for path in sorted(source.rglob("*"))
        if path.is_file()
    ]
    if source.is_file():
        parts = [("files", (source.name, source.read_bytes()))]
    return {"data": fields, "files": parts}
