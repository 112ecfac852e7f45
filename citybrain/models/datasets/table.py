"""Tables: CSV or Parquet, a column of labels, numeric columns, and `tag:` columns for slices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from citybrain.core.errors import BadData
from citybrain.core.tensors import Array

TAG = "tag:"


@dataclass
class Table:
    """A labelled table: `labels` and `tags` have one entry a row."""

    frame: Any
    columns: list[str]
    labels: list[str]
    tags: list[dict[str, str]]
    name: str

    def matrix(self, columns: list[str]) -> Array:
        """These columns as FP32[rows, columns]; BadData names the first line without a number."""
        import pandas as pd

        numbers: Array = (
            self.frame[columns].apply(pd.to_numeric, errors="coerce").to_numpy(np.float32)
        )
        bad = np.argwhere(~np.isfinite(numbers))
        if len(bad):
            row, column = bad[0]
            raise BadData(f"{self.name}:{row + 2}: {columns[column]} is not a finite number.")
        return numbers


def read_frame(path: Path) -> Any:
    """A CSV (also gzipped) or Parquet file as a pandas frame."""
    import pandas as pd

    if not path.is_file():
        raise BadData(f"There is no file {path}.")
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(path, encoding="utf-8-sig")
    except Exception as error:
        raise BadData(f"{path.name} cannot be read: {str(error).splitlines()[0][:200]}.") from error


def read_table(path: Path, *, target: str) -> Table:
    """Read a labelled table. Columns named `tag:…` describe slices and are not features."""
    frame = read_frame(path)
    if target not in frame.columns:
        raise BadData(
            f"{path.name} has no column {target!r}.",
            hint=f"It has: {list(frame)[:12]}.",
        )
    empty = np.flatnonzero(frame[target].isna())
    if len(empty):
        raise BadData(f"{path.name}:{empty[0] + 2}: the label is empty.")
    tagged = [name for name in frame.columns if str(name).startswith(TAG)]
    tags: list[dict[str, str]] = [{} for _ in range(len(frame))]
    for name in tagged:
        for tag, value in zip(tags, frame[name], strict=True):
            tag[name.removeprefix(TAG)] = str(value)
    columns = [str(name) for name in frame.columns if name != target and name not in tagged]
    return Table(frame, columns, frame[target].astype(str).tolist(), tags, path.name)
