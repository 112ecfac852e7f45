"""How calls are shared among deployments, and the canaries that move the shares."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from citybrain.core.errors import Conflict, RowNotFound
from citybrain.core.schemas import Actor
from citybrain.core.schemas.traffic import Canary, NewCanary, NewTraffic, Share, Traffic
from citybrain.storage.database import Database, bump, lock
from citybrain.storage.moments import now
from citybrain.storage.records.audit import note
from citybrain.storage.records.notices import tell_users
from citybrain.storage.records.past import note_traffic
from citybrain.storage.traffic_tables import CanaryRow, TrafficRow

MACHINE = Actor(key="canary", department="platform", role="admin")
TOLD = {"begun": "canary.begun", "rolled-back": "canary.back", "stopped": "canary.ended"}
"""What of a canary's course the users of its algorithm are told."""


class Traffics:
    """One plan for each algorithm that has one; a canary alone moves a plan's split while it runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> dict[str, Traffic]:
        """Every plan in force."""
        with self._database.read() as session:
            return {row.algorithm: _traffic(row) for row in session.scalars(select(TrafficRow))}

    def get(self, algorithm: str) -> Traffic:
        """An algorithm's plan; an empty one where nobody made one."""
        with self._database.read() as session:
            row = session.get(TrafficRow, algorithm)
            return _traffic(row) if row else Traffic(algorithm=algorithm)

    def put(self, algorithm: str, new: NewTraffic, actor: Actor) -> Traffic:
        """Set the plan; Conflict while a canary runs."""
        with self._database.write() as session:
            lock(session, algorithm)
            row = session.get(TrafficRow, algorithm)
            if row is not None and row.canary:
                raise Conflict(
                    f"The canary {row.canary} shares the calls of {algorithm} now.",
                    hint=f"Let it end, or stop it: citybrain canary {algorithm} --stop",
                )
            plan = new.model_dump(mode="json")
            _set(session, algorithm, plan, "", actor)
            note(session, actor, "traffic.set", algorithm, **plan)
        return self.get(algorithm)

    def start(
        self, algorithm: str, new: NewCanary, version: int, base_version: int, actor: Actor
    ) -> Canary:  # fmt: skip
        """Begin a canary at its first step."""
        moment = now()
        with self._database.write() as session:
            lock(session, algorithm)
            traffic = session.get(TrafficRow, algorithm)
            if traffic is not None and traffic.canary:
                raise Conflict(
                    f"{algorithm} has a canary already: {traffic.canary}.",
                    hint=f"Let it end, or stop it: citybrain canary {algorithm} --stop",
                )
            if traffic is not None and traffic.plan.get("split"):
                raise Conflict(
                    f"The calls of {algorithm} are split by hand, which a canary would undo.",
                    hint=f"Clear it first: citybrain traffic {algorithm} --clear",
                )
            _check_plan(algorithm, traffic.plan if traffic else {}, new)
            row = CanaryRow(
                id=uuid.uuid4().hex[:12], algorithm=algorithm, target=new.target, version=version,
                base=new.base, base_version=base_version, plan=new.model_dump(mode="json"),
                state="running", step=0, log=[], asked_by=actor.key, created_at=moment,
                moved_at=moment,
            )  # fmt: skip
            session.add(row)
            _move(session, row, "running", 0, "started", actor)
            return _canary(row)

    def move(
        self, canary_id: str, state: str, step: int, says: str, actor: Actor = MACHINE
    ) -> bool:
        """A step forward, or the end; False, and nothing done, when it has ended already."""
        with self._database.write() as session:
            row = session.get(CanaryRow, canary_id)
            if row is None:
                raise RowNotFound(f"There is no canary {canary_id[:40]}.")
            lock(session, row.algorithm)
            if row.state == "running" or (row.state == "passed" and state == "stopped"):
                _move(session, row, state, step, says, actor)
                return True
        return False

    def canaries(self, algorithm: str = "", *, limit: int = 100) -> list[Canary]:
        """Canaries, newest first."""
        query = select(CanaryRow).order_by(CanaryRow.created_at.desc()).limit(limit)
        if algorithm:
            query = query.where(CanaryRow.algorithm == algorithm)
        with self._database.read() as session:
            return [_canary(row) for row in session.scalars(query)]

    def holding(self) -> list[Canary]:
        """Canaries whose split is in force: those that run, and those that passed."""
        held = select(TrafficRow.canary).where(TrafficRow.canary != "")
        query = select(CanaryRow).where(CanaryRow.id.in_(held))
        with self._database.read() as session:
            return [_canary(row) for row in session.scalars(query)]


def _check_plan(algorithm: str, plan: dict[str, Any], new: NewCanary) -> None:
    """Refuse a canary that the plan in force contradicts."""
    clear = f"Clear it first: citybrain traffic {algorithm} --clear"
    if plan.get("shadow") in (new.target, new.base):
        raise Conflict(
            f"{algorithm}@{plan['shadow']} is the shadow, and would answer callers.", hint=clear
        )
    if new.fallback and plan.get("fallback"):
        raise Conflict(
            f"{algorithm} falls back to {plan['fallback'][0]} already.",
            hint=f"Begin the canary without a fallback of its own. {clear}",
        )


def _move(session: Session, row: CanaryRow, state: str, step: int, says: str, actor: Actor) -> None:
    """Move a canary and the split with it, in one transaction."""
    row.state, row.step, row.moved_at = state, step, now()
    canary = _canary(row)
    percent = canary.percent
    told: dict[str, Any] = {"at": row.moved_at.isoformat(), "percent": percent, "says": says}
    row.log = [*row.log, told]
    held = session.get(TrafficRow, row.algorithm)
    plan = dict(held.plan) if held else NewTraffic().model_dump(mode="json")
    shares = [
        Share(target=row.target, percent=percent),
        Share(target=row.base, percent=100 - percent),
    ]
    plan["split"] = [share.model_dump() for share in shares] if percent else []
    if canary.plan.fallback:
        plan["fallback"] = [row.base] if percent else []
    _set(session, row.algorithm, plan, row.id if percent else "", actor)
    if kind := TOLD.get(state if len(row.log) > 1 else "begun"):
        tell_users(session, row.algorithm, kind, version=row.version, previous=row.base_version,
                   percent=f"{percent:g}")  # fmt: skip
    note(session, actor, f"canary.{state}", f"{row.algorithm}@{row.version}",
         canary=row.id, percent=percent, says=says)  # fmt: skip


def _set(session: Session, algorithm: str, plan: dict[str, Any], canary: str, actor: Actor) -> None:
    row = session.get(TrafficRow, algorithm)
    if row is None:
        row = TrafficRow(algorithm=algorithm)
        session.add(row)
    row.plan, row.canary, row.set_by, row.set_at = plan, canary, actor.key, now()
    note_traffic(session, row)
    bump(session)


def _traffic(row: TrafficRow) -> Traffic:
    return Traffic(algorithm=row.algorithm, canary=row.canary, since=row.set_at, **row.plan)


def _canary(row: CanaryRow) -> Canary:
    return Canary.model_validate(row, from_attributes=True)
