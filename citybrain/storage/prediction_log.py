"""The sampled prediction log: Parquet files by algorithm and day, for evaluation and people to read.

`FOLDER/algorithm=NAME/date=YYYY-MM-DD/part-….parquet`, the layout that pyarrow, DuckDB and pandas
know; the day is the city's. A file appears whole or not at all. Many small parts become one: the new
one says which it replaces, so a kill in between is mended by the next look and a row is read once.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import orjson

REPLACES = b"citybrain.replaces"
MANY = 60
"""Parts of the day that are merged; those of a day that is over are merged when they are two."""
LARGE = 32 << 20
"""Bytes of a part that is merged no more."""


class Row(NamedTuple):
    """One sampled call; the columns of a file are these in their order, less `algorithm`."""

    request_id: str
    at: datetime
    algorithm: str
    version: int
    target: str
    department: str
    purpose: str
    door: str
    status: int
    code: str
    rows: int
    latency_ms: float
    work_ms: float
    rate: float
    input: str | None
    input_digest: str
    output: str | None
    output_digest: str | None


def schema() -> Any:
    """The columns of every file, without the two that the folders' names tell."""
    import pyarrow as pa

    text = pa.string()
    kinds = {
        "at": pa.timestamp("ms", "UTC"), "version": pa.int32(), "status": pa.int16(),
        "rows": pa.int32(), "latency_ms": pa.float32(), "work_ms": pa.float32(),
        "rate": pa.float64(),
    }  # fmt: skip
    return pa.schema([(n, kinds.get(n, text)) for n in Row._fields if n != "algorithm"])


class PredictionLog:
    """One process writes it; anybody may read it."""

    def __init__(self, folder: Path, zone: ZoneInfo) -> None:
        self._folder = folder
        self._zone = zone
        self._lock = threading.Lock()

    def append(self, rows: list[Row], name: str) -> None:
        """Add rows as one part for each algorithm and day; the same name again replaces them."""
        import pyarrow as pa

        parts: dict[Path, list[Row]] = defaultdict(list)
        for row in rows:
            parts[self._partition(row.algorithm, row.at)].append(row)
        for partition, found in parts.items():
            columns = zip(Row._fields, zip(*found, strict=True), strict=True)
            named = {name: list(values) for name, values in columns if name != "algorithm"}
            partition.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(pa.table(named, schema()), partition / f"part-{name}.parquet")

    def find(
        self, algorithm: str, *, department: str = "", since: datetime | None = None,
        limit: int = 100,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Newest rows first, of one department or of all; inputs and outputs as JSON values."""
        found: list[dict[str, Any]] = []
        with self._lock:
            for partition in reversed(self._days(algorithm, since)):
                found += self._newest(partition, department, since, limit - len(found))
                if len(found) == limit:
                    break
        for row in found:
            row["algorithm"] = algorithm
            for side in ("input", "output"):
                row[side] = None if row[side] is None else orjson.loads(row[side])
        return found

    def export(
        self, algorithm: str, out: Path, *, department: str = "", since: datetime | None = None
    ) -> None:
        """The same rows, all of them, by day, as one Parquet file that names the algorithm, too."""
        import pyarrow as pa
        from pyarrow import parquet

        whole = schema().insert(2, pa.field("algorithm", pa.string()))
        with parquet.ParquetWriter(out, whole, compression="zstd") as writer:
            for partition in self._days(algorithm, since):
                with self._lock:
                    for part in _parts(partition):  # one at a time: a day may be large
                        table = _table([part], _chosen(department, since)).sort_by("at")
                        name = pa.array([algorithm] * len(table), pa.string())
                        writer.write_table(table.add_column(2, whole.field(2), name))

    def tidy(self, keep_days: Callable[[str], int], most_bytes: int, now: datetime) -> int:
        """Merge small parts, drop days that are too old, then the oldest parts beyond the bytes.

        Gives the bytes that are left.
        """
        today = now.astimezone(self._zone).date()
        with self._lock:
            for partition in list(self._partitions()):
                for left in partition.glob("*.new"):  # what a kill cut off
                    left.unlink()
                first = today - timedelta(
                    days=keep_days(partition.parent.name.removeprefix("algorithm=")) - 1
                )
                if _day(partition) < first:
                    shutil.rmtree(partition)
                else:
                    self._merge(partition, over=_day(partition) < today)
            parts = [(p.parent.name, p.name, p) for f in self._partitions() for p in _parts(f)]
            sizes = {path: path.stat().st_size for *_, path in parts}
            total = sum(sizes.values())
            for *_, path in sorted(parts):
                if total <= most_bytes:
                    break
                path.unlink()
                total -= sizes[path]
            for partition in list(self._partitions()):
                if not any(partition.iterdir()):
                    partition.rmdir()
        return total

    def _merge(self, partition: Path, *, over: bool) -> None:
        from pyarrow import parquet

        parts = _parts(partition)
        if len(parts) < 2:
            return
        for part in (part for part in parts if part.stem.endswith("-all")):
            told = parquet.read_metadata(part).metadata or {}
            for replaced in json.loads(told.get(REPLACES, b"[]")):
                (partition / replaced).unlink(missing_ok=True)
        small = [part for part in _parts(partition) if part.stat().st_size < LARGE]
        if len(small) <= (1 if over else MANY):
            return
        sizes = accumulate(part.stat().st_size for part in small)
        taken = [part for part, size in zip(small, sizes, strict=True) if size < 2 * LARGE]
        names = json.dumps([part.name for part in taken]).encode()
        table = _table(taken).sort_by("at").replace_schema_metadata({REPLACES: names})
        _write(table, partition / f"{taken[-1].stem}-all.parquet")
        for part in taken:
            part.unlink()

    def _newest(
        self, partition: Path, department: str, since: datetime | None, limit: int
    ) -> list[dict[str, Any]]:
        import pyarrow.compute as pc

        moments = _table(_parts(partition), _chosen(department, since), ["at"])
        if len(moments) > limit:  # read the contents of the newest alone
            newest = pc.select_k_unstable(moments, limit, [("at", "descending")])
            since = moments["at"][newest[-1].as_py()].as_py()
        table = _table(_parts(partition), _chosen(department, since))
        found: list[dict[str, Any]] = table.sort_by([("at", "descending")])[:limit].to_pylist()
        return found

    def _partition(self, algorithm: str, at: datetime) -> Path:
        day = at.astimezone(self._zone).date()
        return self._folder / f"algorithm={algorithm}" / f"date={day.isoformat()}"

    def _partitions(self) -> Iterator[Path]:
        return self._folder.glob("algorithm=*/date=*")

    def _days(self, algorithm: str, since: datetime | None) -> list[Path]:
        """The days of an algorithm that may hold such rows, oldest first."""
        first = since.astimezone(self._zone).date() if since else date.min
        found = (self._folder / f"algorithm={algorithm}").glob("date=*")
        return sorted(day for day in found if _day(day) >= first)


def _day(partition: Path) -> date:
    return date.fromisoformat(partition.name.removeprefix("date="))


def _parts(partition: Path) -> list[Path]:
    return sorted(partition.glob("part-*.parquet"))


def _chosen(department: str, since: datetime | None) -> Any:
    """Which rows, as pyarrow asks; None: all."""
    import pyarrow.compute as pc

    of_it = pc.field("department") == department if department else None
    later = pc.field("at") >= since.astimezone(UTC) if since else None
    if of_it is None or later is None:
        return later if of_it is None else of_it
    return of_it & later


def _table(parts: list[Path], chosen: Any = None, columns: list[str] | None = None) -> Any:
    from pyarrow import dataset

    if not parts:
        return schema().empty_table()
    paths = [str(part) for part in parts]
    found = dataset.dataset(paths, schema(), format="parquet")
    return found.to_table(columns=columns, filter=chosen)


def _write(table: Any, path: Path) -> None:
    """All of it under this name, or nothing; on the disk when it returns."""
    from pyarrow import parquet

    fresh = path.with_name(f"{path.name}.new")  # readers look for *.parquet
    try:
        with fresh.open("wb") as file:
            os.fchmod(file.fileno(), 0o600)
            parquet.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
    finally:
        fresh.unlink(missing_ok=True)
