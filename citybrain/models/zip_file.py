"""Open a zip that a stranger made: as many entries as are believed, each name once, no shared bytes."""

from __future__ import annotations

import zipfile
from pathlib import Path

from citybrain.core.errors import BadPackage, TooLarge

DIRECTORY_BYTES = 300
"""Of an entry's record and name in the directory at the end, on average and at most."""


def open_zip(path: Path, entries: int) -> zipfile.ZipFile:
    """The archive; BadPackage, TooLarge or BadZipFile before a hostile directory costs memory or time."""
    with path.open("rb") as file:
        # What ZipFile itself will believe: it reads the whole directory, whatever count it tells.
        end = zipfile._EndRecData(file)  # type: ignore[attr-defined] # noqa: SLF001
    if end is None:
        raise zipfile.BadZipFile("it is not a whole zip archive")
    if end[zipfile._ECD_SIZE] > entries * DIRECTORY_BYTES:  # type: ignore[attr-defined] # noqa: SLF001
        raise TooLarge(f"The archive {path.name} holds more than {entries} files.")
    opened = zipfile.ZipFile(path)
    try:
        _check(opened.infolist(), path.name, entries)
    except (BadPackage, TooLarge):
        opened.close()
        raise
    return opened


def _check(found: list[zipfile.ZipInfo], name: str, entries: int) -> None:
    if len(found) > entries:
        raise TooLarge(f"The archive {name} holds more than {entries} files.")
    seen: set[str] = set()
    for entry in found:
        if entry.filename.casefold() in seen:  # readers differ in which of the two they take
            raise BadPackage(
                f"The archive {name} holds {entry.filename[:80]!r} twice (letter case is ignored)."
            )
        seen.add(entry.filename.casefold())
    if found and min(entry.header_offset for entry in found) > 0:
        raise BadPackage(f"Bytes lie before the archive in {name}.")  # another archive, perhaps
    # Entries that share bytes make small archives unpack to anything (Fifield, 2019).
    end = 0
    for entry in sorted(found, key=lambda item: item.header_offset):
        if entry.header_offset < end:
            raise BadPackage(
                f"{entry.filename[:80]!r} overlaps another file of the archive {name}."
            )
        end = entry.header_offset + 30 + entry.compress_size
