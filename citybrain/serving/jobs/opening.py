"""What a job was handed in as: JSONL, CSV, Parquet, an archive or files, made into chunks of rows.

`open_input` runs in the sandbox: parsers of tables and archives never see a stranger's bytes in a
process that holds a key. It leaves `in/000000.jsonl` and so on, with one line a row. The first
byte of a line says what follows: `i` an item as JSON, `f` a file's place and name, `e` why the row
is none.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from citybrain.core.errors import BadData, CityBrainError, TooLarge
from citybrain.registry.admission.archive import extract, only_regular
from citybrain.registry.sandbox import Limits, run_isolated

TABLES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}
SKIPPED = ("__MACOSX/", ".")
BOM = b"\xef\xbb\xbf"
ITEM, FILE, ERROR = b"i", b"f", b"e"


class _Chunks:
    """Writes rows into files of `chunk` lines."""

    def __init__(self, folder: Path, chunk: int, most: int) -> None:
        self._folder = folder
        self._chunk = chunk
        self._most = most
        self._lines: list[bytes] = []
        self.rows = 0
        folder.mkdir()

    def add(self, kind: bytes, payload: bytes) -> None:
        if self.rows >= self._most:
            raise TooLarge(f"A job takes at most {self._most} rows.", hint="Split the file.")
        self._lines.append(kind + payload)
        self.rows += 1
        if len(self._lines) == self._chunk:
            self.flush()

    def bad(self, message: str) -> None:
        self.add(ERROR, msgspec.json.encode([BadData.code, message]))

    def flush(self) -> None:
        if self._lines:
            number = (self.rows - 1) // self._chunk
            path = self._folder / f"{number:06d}.jsonl"
            path.write_bytes(b"\n".join(self._lines) + b"\n")
            self._lines.clear()


def open_input(work: Path, request: dict[str, Any]) -> dict[str, Any]:
    """The sandbox's step: `upload/` to `in/` and `media/`."""
    chunks = _Chunks(work / "in", request["chunk"], request["max_rows"])
    first, name = work / "upload" / "000000", request["names"][0]
    try:
        match request["kind"]:
            case "jsonl":
                _jsonl(first, name, chunks, request["max_line"])
            case "csv":
                _csv(first, name, chunks, request)
            case "parquet":
                _parquet(first, name, chunks, request)
            case "zip":
                _zip(first, work, chunks)
            case _:
                paths = [work / "upload" / f"{n:06d}" for n in range(len(request["names"]))]
                _media(zip(paths, request["names"], strict=True), work, chunks)
    except TooLarge as error:  # the sandbox's answer knows one kind of problem, and this is another
        return {"too_large": error.message, "hint": error.hint}
    chunks.flush()
    return {}


def _jsonl(path: Path, name: str, chunks: _Chunks, most: int) -> None:
    blank = 0
    with path.open("rb") as file:
        number = 0
        while line := file.readline(most + 2):
            number += 1
            if len(line) > most + 1:
                raise TooLarge(f"{name}:{number}: the line has more than {most} bytes.")
            text = line.removeprefix(BOM).strip() if number == 1 else line.strip()
            if not text:  # at the end of the file blank lines are no rows
                blank += 1
                continue
            for _ in range(blank):
                chunks.bad("The line is empty.")
            blank = 0
            chunks.add(ITEM, text)


def _csv(path: Path, name: str, chunks: _Chunks, request: dict[str, Any]) -> None:
    before = csv.field_size_limit(request["max_line"])  # of the whole process, so put back
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = [column.strip() for column in next(reader, [])]
            kinds, wrap = _columns(columns, name, request)
            blank = 0
            for cells in reader:
                if not cells:
                    blank += 1
                    continue
                for _ in range(blank):
                    chunks.bad("The line is empty.")
                blank = 0
                if len(cells) != len(columns):
                    chunks.bad(
                        f"The row has {len(cells)} cells where the header has {len(columns)}."
                    )
                    continue
                values = {
                    column: _cell(cell) if kind == "json" else cell
                    for column, kind, cell in zip(columns, kinds, cells, strict=True)
                    if cell or kind == "text"
                }
                chunks.add(ITEM, msgspec.json.encode({wrap: values} if wrap else values))
    except csv.Error as error:
        raise BadData(f"{name}:{reader.line_num}: {error}.") from error
    except UnicodeDecodeError as error:
        raise BadData(f"{name} is not UTF-8.", hint="Save it as CSV in UTF-8.") from error
    finally:
        csv.field_size_limit(before)


def _cell(cell: str) -> Any:
    """A number, list or the like; what is none stays a text, and the item's type refuses it."""
    try:
        return msgspec.json.decode(cell)
    except (msgspec.DecodeError, RecursionError):
        return cell


def _parquet(path: Path, name: str, chunks: _Chunks, request: dict[str, Any]) -> None:
    from pyarrow import ArrowException, parquet

    try:
        table = parquet.ParquetFile(path)
        columns = list(table.schema_arrow.names)
        _, wrap = _columns(columns, name, request)
        if table.metadata.num_rows > request["max_rows"]:
            raise TooLarge(f"A job takes at most {request['max_rows']} rows.")
        for batch in table.iter_batches(batch_size=request["chunk"]):
            for row in batch.to_pylist():
                values = {column: value for column, value in row.items() if value is not None}
                try:
                    item = msgspec.json.encode({wrap: values} if wrap else values)
                except (TypeError, ValueError, OverflowError) as error:
                    chunks.bad(f"The row has no JSON form: {str(error)[:200]}.")
                    continue
                chunks.add(ITEM, item)
    except ArrowException as error:
        reason = str(error).splitlines()[0][:200]
        raise BadData(f"{name} cannot be read as Parquet: {reason}.") from error


def _columns(columns: list[str], name: str, request: dict[str, Any]) -> tuple[list[str], str]:
    """How each column is read, and the field that holds them all where the item has only that."""
    fields: dict[str, str] = request["fields"]
    if not columns or len(set(columns)) < len(columns):
        raise BadData(f"{name} has no header, or names a column twice.")
    if set(columns) <= fields.keys():
        return [fields[column] for column in columns], ""
    if request["wrap"]:
        return ["json"] * len(columns), request["wrap"]
    unknown = ", ".join(column for column in columns if column not in fields)
    raise BadData(
        f"{name} has columns that its rows have no place for: {unknown[:200]}.",
        hint=f"A row takes: {', '.join(fields)}.",
    )


def _zip(path: Path, work: Path, chunks: _Chunks) -> None:
    archive = path.rename(path.with_suffix(".zip"))
    out = work / "unpacked"
    extract(archive, out)
    archive.unlink()
    found = sorted(p for p in out.rglob("*") if p.is_file())
    names = [(p, p.relative_to(out).as_posix()) for p in found]
    _media(
        ((p, n) for p, n in names if not n.startswith(SKIPPED) and not p.name.startswith(".")),
        work, chunks,
    )  # fmt: skip


def _media(files: Iterable[tuple[Path, str]], work: Path, chunks: _Chunks) -> None:
    (work / "media").mkdir()
    for number, (path, name) in enumerate(files):
        path.rename(work / "media" / f"{number:06d}")
        chunks.add(FILE, msgspec.json.encode({"file": f"{number:06d}", "name": name[:200]}))


def kind_of(names: list[str], media: str) -> str:
    """How these files are to be read, by their names; BadData says what a job takes."""
    suffix = Path(names[0]).suffix.lower()
    if len(names) == 1 and suffix in TABLES:
        return TABLES[suffix]
    if media:
        return "zip" if len(names) == 1 and suffix == ".zip" else "files"
    raise BadData(
        f"A job of this algorithm is not handed in as {names[0][:80]!r}"
        + (f" and {len(names) - 1} more." if len(names) > 1 else "."),
        hint=f"It takes one file: {', '.join(TABLES)}.",
    )


def fields_of(item: type[msgspec.Struct]) -> tuple[dict[str, str], str]:
    """How a table's column is read for each field of an item; and the one that holds many."""
    found: dict[str, str] = {}
    wrap = ""
    for field in msgspec.structs.fields(item):
        info = msgspec.inspect.type_info(field.type)
        kinds = info.types if isinstance(info, msgspec.inspect.UnionType) else (info,)
        text = any(
            isinstance(k, msgspec.inspect.StrType | msgspec.inspect.BytesType) for k in kinds
        )
        optional = field.default is not msgspec.NODEFAULT
        found[field.name] = "cell" if text and optional else "text" if text else "json"
        if any(isinstance(kind, msgspec.inspect.DictType) for kind in kinds):
            wrap = field.name
    return found, wrap if len(found) == 1 else ""


def open_upload(work: Path, request: dict[str, Any], disk: int) -> int:
    """Open `work/upload` in the sandbox; how many rows it holds. BadData or TooLarge otherwise."""
    limits = Limits(seconds=300.0, memory=2 << 30, disk=disk)
    try:
        told = run_isolated(
            "citybrain.serving.jobs.opening:open_input", work, request, limits=limits
        )
    except TooLarge as error:
        raise TooLarge(
            "The files take more time, memory or disk to open than a job is given.",
            hint="Split them.",
        ) from error
    except CityBrainError as error:
        raise BadData(error.message, hint=error.hint) from error
    if reason := told.get("too_large"):
        raise TooLarge(str(reason)[:2000], hint=str(told.get("hint", ""))[:1000])
    only_regular(work)  # what the sandbox leaves is examined, not believed
    return _count(work / "in", request["chunk"])


def _count(folder: Path, chunk: int) -> int:
    paths = sorted(folder.iterdir())
    sizes = [sum(1 for _ in lines(path)) for path in paths]
    whole = all(size == chunk for size in sizes[:-1]) and all(0 < s <= chunk for s in sizes[-1:])
    if not whole or [p.name for p in paths] != [f"{n:06d}.jsonl" for n in range(len(paths))]:
        raise BadData("The files could not be made into rows.")
    if not paths:
        raise BadData("There are no rows in what was handed in.")
    return sum(sizes)


def lines(path: Path) -> Iterator[bytes]:
    """The lines of a chunk, without their ends."""
    with path.open("rb") as file:
        for line in file:
            yield line.rstrip(b"\n")
