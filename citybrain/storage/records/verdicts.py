"""What admission decided about each version: taken in with these files, or turned away and why.

The audit is the truth. MLflow's tags repeat it for those who look there and are not believed: who
registers a version with plain MLflow calls sets its tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import select

from citybrain.core.schemas import Actor
from citybrain.storage.audit_tables import AuditRow
from citybrain.storage.database import Database, bump
from citybrain.storage.records.audit import note

TAKEN_IN, TURNED_AWAY = "version.register", "version.turned-away"


class Verdict(NamedTuple):
    """A digest for what was taken in, a problem for what was not; neither: not decided yet."""

    digest: str = ""
    run: str = ""
    """The platform's own run, with the package and what admission saw."""
    problem: str = ""
    untold: tuple[str, ...] = ()
    """Words whose lack is the problem: when they are told, it is looked at again."""


UNDECIDED = Verdict()


class Verdicts:
    """The newest verdict about a version counts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self, algorithm: str = "") -> dict[tuple[str, int], Verdict]:
        """By name and number; of one algorithm, or of all."""
        start = AuditRow.object.startswith(f"{algorithm}@", autoescape=True)
        return self._find(*([start] if algorithm else []))

    def of(self, algorithm: str, version: int) -> Verdict:
        """One version's."""
        found = self._find(AuditRow.object == f"{algorithm}@{version}")
        return found.get((algorithm, version), UNDECIDED)

    def turn_away(
        self, algorithm: str, version: int, problem: str, actor: Actor,
        untold: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Write down why a version was not taken in."""
        told = {"untold": list(untold)} if untold else {}
        with self._database.write() as session:
            note(session, actor, TURNED_AWAY, f"{algorithm}@{version}", problem=problem, **told)
            bump(session)

    def _find(self, *conditions: object) -> dict[tuple[str, int], Verdict]:
        query = select(AuditRow.object, AuditRow.action, AuditRow.detail).order_by(AuditRow.id)
        query = query.where(AuditRow.action.in_((TAKEN_IN, TURNED_AWAY)), *conditions)  # type: ignore[arg-type]
        found: dict[tuple[str, int], Verdict] = {}
        with self._database.read() as session:
            for target, action, detail in session.execute(query):
                name, _, version = target.rpartition("@")
                problem = str(detail.get("problem", "")) if action == TURNED_AWAY else ""
                digest = str(detail.get("digest", "")) if action == TAKEN_IN else ""
                if not (version.isdigit() and (problem or digest)):
                    continue  # a request that was denied stands in the trail, too, and is no verdict
                found[name, int(version)] = Verdict(
                    digest, str(detail.get("run", "")), problem, tuple(detail.get("untold", ()))
                )
        return found
