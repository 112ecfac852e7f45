"""The negative list at work: what is registered may carry no forbidden category of data, and join no forbidden pair."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from citybrain.core.errors import ForbiddenCategory


class Ban(NamedTuple):
    """A category that is not collected; with `joined`, one that is not brought together with another."""

    category: str
    joined: str = ""
    reason: str = ""


def check_categories(what: str, fields: Mapping[str, str], bans: Iterable[Ban]) -> None:
    """ForbiddenCategory where fields (by name, with their category) are what a ban names.

    `what` is the view, stream or set that they lie together in.
    """
    held: dict[str, str] = {}
    for name, category in fields.items():
        held.setdefault(category, name)
    for ban in bans:
        if ban.category not in held:
            continue
        if not ban.joined:
            raise ForbiddenCategory(
                f"{what}: {held[ban.category]} is {ban.category}, which is never collected: {ban.reason}",
                hint="Leave it out; the negative list is shown by: citybrain forbidden",
            )
        if ban.joined in held:
            raise ForbiddenCategory(
                f"{what}: {held[ban.category]} ({ban.category}) and {held[ban.joined]} ({ban.joined}) "
                f"are never joined: {ban.reason}",
                hint="Keep them in views of their own; the negative list: citybrain forbidden",
            )
