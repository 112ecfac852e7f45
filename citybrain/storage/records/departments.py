"""The tree of departments: city above district above township, and nothing above itself."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from citybrain.core.errors import InvalidInput, RowNotFound
from citybrain.core.schemas.people import TIERS, Tier
from citybrain.storage.people_tables import DepartmentRow

TREE = "departments"
"""What is locked while the tree changes: two moves at once could make a circle."""


def below(parents: dict[str, str], top: str) -> set[str]:
    """A department and all that are below it, of departments and who is above each."""
    if top not in parents:
        raise RowNotFound(f"There is no department {top[:63]}.")
    found = {top}
    while more := {name for name, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def tier_below(session: Session, parent: str) -> Tier:
    """The tier of a department of which nobody says one: its parent's."""
    row = session.get(DepartmentRow, parent) if parent else None
    return row.tier if row else TIERS[0]  # type: ignore[return-value]


def check_place(session: Session, row: DepartmentRow) -> None:
    """Refuse a place that is none: an unknown parent, a circle, a tier above the parent's."""
    with session.no_autoflush:
        others = session.scalars(select(DepartmentRow).where(DepartmentRow.name != row.name))
        known = {other.name: other for other in others}
    above, seen = row.parent, {row.name}
    while above:
        if above in seen:
            raise InvalidInput(
                f"{row.name} cannot be below {row.parent}, which is below it.",
                hint="See the tree: citybrain departments tree",
            )
        if above not in known:
            raise RowNotFound(
                f"There is no department {above[:63]}.",
                hint=f"Add it first: citybrain departments add {above[:63]}",
            )
        seen.add(above)
        above = known[above].parent
    if row.parent:
        _check_order(known[row.parent], row)
    for other in known.values():
        if other.parent == row.name:
            _check_order(row, other)


def _check_order(upper: DepartmentRow, lower: DepartmentRow) -> None:
    if TIERS.index(lower.tier) < TIERS.index(upper.tier):
        raise InvalidInput(
            f"{lower.name} ({lower.tier}) cannot be below {upper.name} ({upper.tier}).",
            hint=f"From the top: {', '.join(TIERS)}.",
        )
