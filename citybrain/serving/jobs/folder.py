"""A job's files: chunks of rows in, a part of the result for each finished chunk, the result.

A part is the truth about its chunk. It appears whole, under a name that says how many of its rows
were answered, by which version and in what time, so that a process that was killed in between
meters and counts it as the one that wrote it would have done.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from citybrain.core.schemas.jobs import ResultFormat
from citybrain.models.task import Item
from citybrain.serving.jobs import columns
from citybrain.serving.jobs.opening import lines

KEPT_PROBLEMS = 5


class Part(NamedTuple):
    """A finished chunk."""

    number: int
    answered: int
    version: int
    micros: int
    amount: float
    """Of the task's own unit, in what was answered."""
    path: Path


class JobFolder:
    """The files of one job."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def chunk(self, number: int) -> list[bytes]:
        """The rows of a chunk, as `opening.py` left them."""
        return list(lines(self.root / "in" / f"{number:06d}.jsonl"))

    def media(self, name: str) -> bytes:
        """A file that is a row."""
        return (self.root / "media" / name).read_bytes()

    @property
    def is_open(self) -> bool:
        """Whether there is something left that only a running job needs."""
        return (self.root / "in").exists()

    def part(self, number: int) -> Part | None:
        """The part of a chunk, if it is finished."""
        for path in (self.root / "out").glob(f"{number:06d}.*.jsonl"):
            return _part(path)
        return None

    def last(self) -> Part | None:
        """The part of the last chunk that is finished."""
        found = sorted((self.root / "out").glob("*.jsonl"))
        return _part(found[-1]) if found else None

    def write(
        self, number: int, answered: int, version: int, micros: int, amount: float, data: bytes
    ) -> Part:
        """Keep the answers to a chunk; it is finished when this returns."""
        out = self.root / "out"
        out.mkdir(exist_ok=True)
        path = out / f"{number:06d}.{answered}.{version}.{micros}.{round(amount * 1e3)}.jsonl"
        _write_whole(path, [data])
        return _part(path)

    def result(self, form: ResultFormat) -> Path:
        """Where the result lies once the job has ended."""
        return self.root / f"result.{form}"

    def close(self, form: ResultFormat, output: type[Item]) -> None:
        """Put the finished parts together and let go of everything else; safe to repeat."""
        target = self.result(form)
        parts = sorted((self.root / "out").glob("*.jsonl"))
        if not target.exists():
            if form == "parquet":
                _write_parquet(target, parts, output)
            else:
                _write_whole(target, (path.read_bytes() for path in parts))
        # The rows last: while they are there, this was not done.
        for name in ("media", "out", "in"):
            shutil.rmtree(self.root / name, ignore_errors=True)


def _part(path: Path) -> Part:
    number, answered, version, micros, amount, _ = path.name.split(".")
    return Part(int(number), int(answered), int(version), int(micros), int(amount) / 1e3, path)


def _write_whole(path: Path, data: Iterator[bytes] | list[bytes]) -> None:
    """All of it under this name, or nothing; on the disk when it returns."""
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("wb") as file:
        for piece in data:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    _appear(fresh, path)


def _write_parquet(path: Path, parts: list[Path], output: type[Item]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    fresh, schema = path.with_name(f".{path.name}.new"), columns.schema(output)
    with fresh.open("wb") as file:
        with parquet.ParquetWriter(file, schema) as writer:
            for part in parts:
                found = [msgspec.json.decode(line) for line in lines(part)]
                rows = [columns.record(line, output, schema) for line in found]
                writer.write_table(pa.Table.from_pylist(rows, schema))
        file.flush()
        os.fsync(file.fileno())
    _appear(fresh, path)


def _appear(fresh: Path, path: Path) -> None:
    fresh.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def problems(known: list[dict[str, Any]], part: Part) -> list[dict[str, Any]]:
    """The first rows that failed, with those of this part."""
    found = list(known)
    for line in lines(part.path):
        if len(found) >= KEPT_PROBLEMS:
            break
        row = msgspec.json.decode(line)
        if error := row.get("error"):
            message = error["message"].splitlines()[0][:200]
            found.append({"row": row["row"], "code": error["code"], "message": message})
    return found
