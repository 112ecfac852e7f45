"""Names that people type: algorithms, scenarios, departments, and `name@alias`."""

from __future__ import annotations

import re
from typing import Annotated, NamedTuple

from pydantic import StringConstraints

from citybrain.core.errors import InvalidInput

RETIRED = "retired"
"""The alias of a retired version; only `retire` moves it."""
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

Name = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", min_length=2, max_length=63),
]


class Ref(NamedTuple):
    """An algorithm as a caller names it: `name`, `name@alias` or `name@7` (a version)."""

    algorithm: str
    target: str = ""

    def __str__(self) -> str:
        return f"{self.algorithm}@{self.target}" if self.target else self.algorithm

    @property
    def version(self) -> int | None:
        """The version number, when the target is one."""
        return int(self.target) if self.target.isascii() and self.target.isdigit() else None


def check_name(name: str, what: str = "name") -> str:
    """Return the name, or say what a name looks like."""
    if len(name) > 63 or not NAME.fullmatch(name):
        raise InvalidInput(
            f"{name[:80]!r} is not a valid {what}.",
            hint="Use 2 to 63 lower-case letters, digits and single hyphens, a letter first.",
        )
    return name


def check_alias(alias: str) -> str:
    """Return an alias that a promotion may set: `champion`, `staging`, or any name but a few."""
    if alias.isascii() and alias.isdigit():
        raise InvalidInput(
            f"{alias} is a version number, not an alias.", hint="Choose a name: staging, city."
        )
    if alias == "latest" or re.fullmatch(r"v[0-9]+", alias):
        raise InvalidInput(
            f"{alias!r} is reserved by MLflow.", hint="Choose another name: staging, city."
        )
    if alias == RETIRED:
        raise InvalidInput(
            "The alias 'retired' marks what was retired.", hint="Use: citybrain retire NAME@version"
        )
    return check_name(alias, "alias")


def parse_ref(text: str) -> Ref:
    """Read `vehicle-detector`, `vehicle-detector@champion` or `vehicle-detector@3`."""
    name, _, target = text.partition("@")
    check_name(name, "algorithm name")
    if target and not target.isdigit():
        check_name(target, "alias")
    return Ref(name, target)
