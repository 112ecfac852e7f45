"""A case: how to write one hostile thing, and what its refusal has to say."""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Shot:
    """What a payload does when it runs: create its markers, outside and inside the sandbox."""

    markers: tuple[str, ...]

    @property
    def shell(self):
        return "touch " + " ".join(self.markers)

    @property
    def python(self):
        return f"[open(p, 'w').close() for p in {list(self.markers)!r}]"


@dataclass(frozen=True)
class Case:
    """`make(folder, shot)` writes the thing and returns the path to hand in."""

    family: str
    name: str
    make: Callable[[Path, Shot], Path]
    says: str
    """A regular expression that the refusal's message matches, whatever its letter case."""
    card: dict[str, Any] = field(default_factory=dict)

    def __str__(self):
        return f"{self.family}-{self.name}"


CASES: list[Case] = []


def add(family, name, make, says, **card):
    assert all((c.family, c.name) != (family, name) for c in CASES), name
    CASES.append(Case(family, name, make, says, card))


def file_of(name, data):
    """A maker of one file; `data` may be a function of the shot."""

    def make(folder, shot):
        path = folder / name
        path.write_bytes(data(shot) if callable(data) else data)
        return path

    return make


def folder_of(files, name="handed-in"):
    """A maker of a folder: names with bytes, text, or functions of the shot that return bytes."""

    def make(folder, shot):
        root = folder / name
        root.mkdir()
        for inside, data in files.items():
            found = data(shot) if callable(data) else data
            path = root / inside
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(found.encode() if isinstance(found, str) else found)
        return root

    return make


def zip_of(path, files, method=zipfile.ZIP_STORED):
    """A zip with these members, pairs so that a name may come twice."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return path
