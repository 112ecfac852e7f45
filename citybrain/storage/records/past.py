"""What was true at a moment, from the append-only tables."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from citybrain.core.schemas.history import (
    AliasThen,
    AsOf,
    DeploymentThen,
    GrantThen,
    PromotionThen,
    TrafficThen,
)
from citybrain.storage.database import Database
from citybrain.storage.grant_tables import GrantRow
from citybrain.storage.history_tables import DeploymentMoveRow, GrantMoveRow, PromotionMoveRow
from citybrain.storage.tables import AliasMoveRow, DeploymentRow, PromotionRow
from citybrain.storage.traffic_tables import TrafficMoveRow, TrafficRow

RECONCILER = "reconciler"


def note_wanted(session: Session, row: DeploymentRow, kind: str, by: str, at: datetime) -> None:
    """Write down what somebody wants of a deployment."""
    session.add(
        DeploymentMoveRow(
            algorithm=row.algorithm, target=row.target, kind=kind, version=0,
            replicas=row.replicas, min_replicas=row.scaling.get("min_replicas"), app="",
            moved_by=by, at=at,
        )
    )  # fmt: skip


def note_served(
    session: Session, row: DeploymentRow, running: dict[str, Any], at: datetime
) -> None:
    """Write down which application answers from now on; an empty one: none does."""
    session.add(
        DeploymentMoveRow(
            algorithm=row.algorithm, target=row.target, kind="running" if running else "stopped",
            version=int(running.get("version", 0)), replicas=row.replicas,
            min_replicas=row.scaling.get("min_replicas"), app=str(running.get("app", "")), moved_by=RECONCILER, at=at,
        )
    )  # fmt: skip


def note_grant(session: Session, row: GrantRow, kind: str, by: str, at: datetime) -> None:
    """Write down that a grant was given or revoked."""
    session.add(
        GrantMoveRow(
            grant_id=row.id, kind=kind, department=row.department, algorithm=row.algorithm,
            purpose=row.purpose, until=row.until, moved_by=by, at=at,
        )
    )  # fmt: skip


def note_promotion(session: Session, row: PromotionRow, by: str, at: datetime) -> None:
    """Write down that a promotion came into its present state."""
    session.add(
        PromotionMoveRow(
            promotion_id=row.id, kind=row.state, algorithm=row.algorithm, alias=row.alias,
            version=row.version, moved_by=by, at=at,
        )
    )  # fmt: skip


def note_traffic(session: Session, row: TrafficRow) -> None:
    """Write down how calls are shared from now on."""
    session.add(
        TrafficMoveRow(
            algorithm=row.algorithm, plan=row.plan, canary=row.canary, moved_by=row.set_by,
            at=row.set_at,
        )
    )  # fmt: skip


class Past:
    """Reads the history; nothing here writes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def as_of(self, at: datetime, algorithm: str = "") -> AsOf:
        """Aliases, deployments, traffic and grants at a moment, of one algorithm or of all."""
        with self._database.read() as session:
            return AsOf(
                at=at,
                aliases=_aliases(session, at, algorithm),
                deployments=_deployments(session, at, algorithm),
                traffic=_traffic(session, at, algorithm),
                grants=_grants(session, at, algorithm),
                waiting=_waiting(session, at, algorithm),
            )


def _aliases(session: Session, at: datetime, algorithm: str) -> list[AliasThen]:
    keys = (AliasMoveRow.algorithm, AliasMoveRow.alias)
    newest = select(func.max(AliasMoveRow.id)).where(AliasMoveRow.at <= at).group_by(*keys)
    if algorithm:
        newest = newest.where(AliasMoveRow.algorithm == algorithm)
    rows = session.scalars(select(AliasMoveRow).where(AliasMoveRow.id.in_(newest)).order_by(*keys))
    return [AliasThen.model_validate(row, from_attributes=True) for row in rows if row.version]


def _deployments(session: Session, at: datetime, algorithm: str) -> list[DeploymentThen]:
    row = DeploymentMoveRow

    def newest(*kinds: str) -> dict[tuple[str, str], DeploymentMoveRow]:
        last: Select[Any] = select(func.max(row.id)).where(row.at <= at, row.kind.in_(kinds))
        if algorithm:
            last = last.where(row.algorithm == algorithm)
        last = last.group_by(row.algorithm, row.target)
        found = session.scalars(select(row).where(row.id.in_(last)))
        return {(one.algorithm, one.target): one for one in found}

    wanted, served = newest("wanted", "unwanted"), newest("running", "stopped")
    found = []
    for key in sorted(wanted):
        asked, answers = wanted[key], served.get(key)
        runs = answers is not None and answers.kind == "running"
        if asked.kind == "wanted" or runs:
            found.append(
                DeploymentThen(
                    algorithm=key[0], target=key[1], wanted=asked.kind == "wanted",
                    replicas=asked.replicas, min_replicas=asked.min_replicas,
                    moved_by=asked.moved_by, at=asked.at,
                    version=answers.version if answers and runs else 0,
                    app=answers.app if answers and runs else "",
                    since=answers.at if answers and runs else None,
                )
            )  # fmt: skip
    return found


def _traffic(session: Session, at: datetime, algorithm: str) -> list[TrafficThen]:
    row = TrafficMoveRow
    newest = select(func.max(row.id)).where(row.at <= at).group_by(row.algorithm)
    if algorithm:
        newest = newest.where(row.algorithm == algorithm)
    found = session.scalars(select(row).where(row.id.in_(newest)).order_by(row.algorithm))
    plans = [
        TrafficThen(
            algorithm=one.algorithm, canary=one.canary, moved_by=one.moved_by, at=one.at, **one.plan
        )
        for one in found
    ]
    return [plan for plan in plans if plan.says_anything]


def _grants(session: Session, at: datetime, algorithm: str) -> list[GrantThen]:
    row = GrantMoveRow
    revoked = select(row.grant_id).where(row.kind == "revoked", row.at <= at)
    query = select(row).where(
        row.kind == "given", row.at <= at, row.grant_id.not_in(revoked),
        row.until.is_(None) | (row.until > at),
    )  # fmt: skip
    if algorithm:
        query = query.where(row.algorithm == algorithm)
    return [
        GrantThen(
            id=one.grant_id, department=one.department, algorithm=one.algorithm,
            purpose=one.purpose, until=one.until, moved_by=one.moved_by, at=one.at,
        )
        for one in session.scalars(query.order_by(row.id))
    ]  # fmt: skip


def _waiting(session: Session, at: datetime, algorithm: str) -> list[PromotionThen]:
    row = PromotionMoveRow
    ended = select(row.promotion_id).where(row.kind != "waiting", row.at <= at)
    query = select(row).where(row.kind == "waiting", row.at <= at, row.promotion_id.not_in(ended))
    if algorithm:
        query = query.where(row.algorithm == algorithm)
    return [
        PromotionThen(
            id=one.promotion_id, algorithm=one.algorithm, alias=one.alias, version=one.version,
            moved_by=one.moved_by, at=one.at,
        )
        for one in session.scalars(query.order_by(row.id))
    ]  # fmt: skip
