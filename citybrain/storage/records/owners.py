"""Which department an object belongs to, in one look whether it exists or not."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, bindparam, case, literal, select

from citybrain.storage.database import Database
from citybrain.storage.grant_tables import GrantRequestRow, GrantRow
from citybrain.storage.people_tables import DepartmentRow, KeyRow
from citybrain.storage.tables import (
    AlgorithmRow,
    ConversionRow,
    EvaluationRow,
    JobRow,
    PromotionRow,
    RequestRow,
)

EVERYBODY = "*"
"""Of an object that every department may look at."""


class Owners:
    """Each question is one query, so that no answer takes longer than another."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, kind: str, named: str) -> str:
        """The owner of an object of this kind; nothing: there is no such object."""
        with self._database.read() as session:
            return session.scalar(_QUERIES[kind].params(named=named)) or ""


def _own(table: Any) -> Select[Any]:
    return select(table.department).where(_is(table.id))


def _of_algorithm(table: Any, owner: Any = AlgorithmRow.owner) -> Select[Any]:
    joined = select(owner).select_from(table)
    joined = joined.join(AlgorithmRow, AlgorithmRow.name == table.algorithm)
    return joined.where(_is(table.id))


def _is(column: Any) -> Any:
    return column == bindparam("named")


_QUERIES: dict[str, Select[Any]] = {
    "algorithm": select(AlgorithmRow.owner).where(_is(AlgorithmRow.name)),
    "asking": _own(GrantRequestRow),
    "call": select(RequestRow.department).where(_is(RequestRow.request_id)),
    "conversion": _of_algorithm(ConversionRow),
    "department": select(DepartmentRow.name).where(_is(DepartmentRow.name)),
    "evaluation": _of_algorithm(
        # On its scenario's own data it is a page of the catalogue; on other data it is the owner's.
        EvaluationRow, case((EvaluationRow.data == "", literal(EVERYBODY)), else_=AlgorithmRow.owner)
    ),
    "grant": _own(GrantRow),
    "job": _own(JobRow),
    "key": _own(KeyRow),
    "promotion": _of_algorithm(PromotionRow),
    # Of a feature view it is nobody's but the admins', whatever the view is called.
    "request": _of_algorithm(GrantRequestRow).where(GrantRequestRow.kind == "algorithm"),
}  # fmt: skip
