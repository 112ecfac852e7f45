"""What a replica that answers says of itself, beside its lane: that a server it needs is silent.

Serve has no word for that: a replica is well, or is replaced, which would help nobody here.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from pathlib import Path

SUFFIX = ".lane"
NOTE = ".note"


def write_note(lane: Path, text: str) -> None:
    """Say it beside this lane; an empty text: all is well."""
    path = lane.with_suffix(NOTE)
    if not text:
        path.unlink(missing_ok=True)
    elif not path.exists() or path.read_text() != text:
        hidden = path.with_suffix(".note-new")
        hidden.write_text(text)
        hidden.replace(path)


def read_notes(folder: Path) -> dict[str, str]:
    """By the beginning of an application's lanes, to the dash: what is said beside every one of them.

    While one replica says nothing, the application is well.
    """
    lanes: dict[str, list[str]] = defaultdict(list)
    for path in folder.glob(f"*{NOTE}"):
        lane = path.with_suffix(SUFFIX)
        with contextlib.suppress(FileNotFoundError):
            if lane.exists():
                lanes[lane.name.partition("-")[0] + "-"].append(path.read_text())
            else:  # its replica is gone
                path.unlink()
    return {
        begin: notes[0]
        for begin, notes in lanes.items()
        if len(notes) == len(list(folder.glob(f"{begin}*{SUFFIX}")))
    }
