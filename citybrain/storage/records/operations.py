"""How scenarios and algorithms are used, and how satisfied callers are: from the ledger and ratings."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import Integer, cast, func, select
from sqlalchemy.orm import Session

from citybrain.core.dates import month_of
from citybrain.core.errors import RowNotFound
from citybrain.core.schemas import Actor
from citybrain.core.schemas.bills import (
    LowUse,
    NewRating,
    Operation,
    OperationWeek,
    PurposeUse,
    Rating,
    ScenarioUse,
)
from citybrain.storage.bill_tables import RatingRow
from citybrain.storage.database import Database
from citybrain.storage.grant_tables import GrantRow
from citybrain.storage.moments import now
from citybrain.storage.tables import AlgorithmRow, RequestRow, UsageDayRow

WEEKS = 8
FAILED = cast(RequestRow.status >= 500, Integer)


class Operations:
    """The plan's operation evaluation."""

    def __init__(self, database: Database, zone: ZoneInfo) -> None:
        self._database = database
        self._zone = zone

    def rate(self, request_id: str, department: str, new: NewRating, actor: Actor) -> Rating:
        """Say what an answer was worth; again: anew. Only the department that got it."""
        with self._database.write() as session:
            call = session.get(RequestRow, request_id)
            if call is None or (department and call.department != department):
                raise RowNotFound(
                    "There is no such call in the ledger.",
                    hint="A call appears within a second or two.",
                )
            row = session.get(RatingRow, request_id)
            if row is None:
                row = RatingRow(
                    request_id=request_id, department=call.department, algorithm=call.algorithm,
                    version=call.version, scenario=call.scenario,
                )  # fmt: skip
                session.add(row)
            row.stars, row.reason = new.stars, new.reason
            row.rated_by, row.at = actor.person, now()
            return Rating.model_validate(row, from_attributes=True)

    def ratings(self, algorithm: str, limit: int = 100) -> list[Rating]:
        """What callers said of an algorithm, newest first."""
        query = select(RatingRow).where(RatingRow.algorithm == algorithm)
        with self._database.read() as session:
            rows = session.scalars(query.order_by(RatingRow.at.desc()).limit(limit))
            return [Rating.model_validate(row, from_attributes=True) for row in rows]

    def ratings_of(self, requests: list[str]) -> dict[str, Rating]:
        """The ratings of these calls."""
        query = select(RatingRow).where(RatingRow.request_id.in_(requests))
        with self._database.read() as session:
            return {
                row.request_id: Rating.model_validate(row, from_attributes=True)
                for row in session.scalars(query)
            }

    def overview(self, name: str = "") -> dict[str, ScenarioUse]:
        """Who is registered, who calls, with what success, how satisfied: by scenario."""
        moment = now()
        day, week, month = (moment - timedelta(days=n) for n in (1, 7, 30))
        with self._database.read() as session:
            registered = _registered(session, moment, name)
            today, lately = (_calls(session, since, moment, name) for since in (day, week))
            calls = _calls(session, month, moment, name)
            stars = _stars(session, month, moment, name)
        return {
            found: _use(
                found, registered.get(found, set()), today.get(found, NOTHING),
                lately.get(found, NOTHING), calls.get(found, NOTHING), stars.get(found, (None, 0)),
            )
            for found in {name} - {""} | registered.keys() | calls.keys() | stars.keys()
        }  # fmt: skip

    def scenario(self, name: str) -> Operation:
        """One scenario, and the weeks before."""
        moment = now()
        use = self.overview(name)[name]
        with self._database.read() as session:
            trend = [self._week(session, name, moment - timedelta(weeks=n)) for n in range(WEEKS)]
        return Operation(**use.model_dump(), trend=trend[::-1])

    def _week(self, session: Session, name: str, end: datetime) -> OperationWeek:
        begin = end - timedelta(weeks=1)
        calls = _calls(session, begin, end, name).get(name, NOTHING)
        return OperationWeek(
            ends=f"{end.astimezone(self._zone):%Y-%m-%d}", requests=calls.requests,
            failed=calls.failed, active=len(calls.departments),
            stars=_stars(session, begin, end, name).get(name, (None, 0))[0],
        )  # fmt: skip

    def low_use(self, *, days: int = 30, fewer: int = 100) -> list[LowUse]:
        """Algorithms that are older than these days and were called less often, to be retired."""
        moment = now()
        since = f"{(moment - timedelta(days=days)).astimezone(self._zone):%Y-%m-%d}"
        used = (
            select(
                UsageDayRow.algorithm, func.sum(UsageDayRow.requests).label("requests"),
                func.count(func.distinct(UsageDayRow.department)).label("departments"),
                func.max(UsageDayRow.day).label("last_day"),
            )
            .where(UsageDayRow.day >= since).group_by(UsageDayRow.algorithm).subquery()
        )  # fmt: skip
        query = (
            select(
                AlgorithmRow.name,
                AlgorithmRow.owner,
                used.c.requests,
                used.c.departments,
                used.c.last_day,
            )
            .outerjoin(used, used.c.algorithm == AlgorithmRow.name)
            .where(AlgorithmRow.created_at < moment - timedelta(days=days))
            .where(func.coalesce(used.c.requests, 0) < fewer)
            .order_by(func.coalesce(used.c.requests, 0), AlgorithmRow.name)
        )
        with self._database.read() as session:
            return [
                LowUse(algorithm=name, owner=owner, requests=int(requests or 0),
                       departments=int(departments or 0), last_day=last or "")
                for name, owner, requests, departments, last in session.execute(query)
            ]  # fmt: skip

    def purposes(self, month: str, department: str = "") -> list[PurposeUse]:
        """What was called for which purpose in a month; the sums are those of the ledger."""
        begin, end = month_of(month, self._zone)
        row = RequestRow
        keys = (row.department, row.algorithm, row.purpose)
        query = (
            select(*keys, func.count(), func.sum(cast(row.state != "SERVED", Integer)))
            .where(row.at >= begin, row.at < end).group_by(*keys).order_by(*keys)
        )  # fmt: skip
        if department:
            query = query.where(row.department == department)
        with self._database.read() as session:
            return [
                PurposeUse(department=whose, algorithm=algorithm, purpose=purpose,
                           requests=count, failed=int(failed or 0))
                for whose, algorithm, purpose, count, failed in session.execute(query)
            ]  # fmt: skip


class Calls(NamedTuple):
    """The calls of a scenario in a time."""

    departments: frozenset[str]
    requests: int
    failed: int


NOTHING = Calls(frozenset(), 0, 0)


def _use(
    name: str, registered: set[str], day: Calls, week: Calls, month: Calls,
    rated: tuple[float | None, int],
) -> ScenarioUse:  # fmt: skip
    active = len(registered & week.departments)
    return ScenarioUse(
        scenario=name, registered=len(registered), active_day=len(day.departments),
        active_week=len(week.departments),
        use_rate=round(active / len(registered), 4) if registered else 0.0,
        requests=month.requests,
        error_rate=round(month.failed / month.requests, 6) if month.requests else 0.0,
        satisfaction=rated[0], ratings=rated[1],
    )  # fmt: skip


def _registered(session: Session, moment: datetime, name: str) -> dict[str, set[str]]:
    """The departments that hold a grant for a scenario."""
    query = select(GrantRow.scenario, GrantRow.department).where(
        _named(GrantRow.scenario, name), GrantRow.revoked_at.is_(None),
        GrantRow.until.is_(None) | (GrantRow.until > moment),
    )  # fmt: skip
    found: dict[str, set[str]] = {}
    for scenario, department in session.execute(query.distinct()):
        found.setdefault(scenario, set()).add(department)
    return found


def _calls(session: Session, begin: datetime, end: datetime, name: str) -> dict[str, Calls]:
    row = RequestRow
    query = (
        select(row.scenario, row.department, func.count(), func.sum(FAILED))
        .where(_named(row.scenario, name), row.at >= begin, row.at < end)
        .group_by(row.scenario, row.department)
    )  # fmt: skip
    found: dict[str, Calls] = {}
    for scenario, department, requests, failed in session.execute(query):
        sums = found.get(scenario, NOTHING)
        found[scenario] = Calls(
            sums.departments | {department}, sums.requests + requests, sums.failed + int(failed)
        )
    return found


def _stars(
    session: Session, begin: datetime, end: datetime, name: str
) -> dict[str, tuple[float | None, int]]:
    row = RatingRow
    query = (
        select(row.scenario, func.avg(row.stars), func.count())
        .where(_named(row.scenario, name), row.at >= begin, row.at < end).group_by(row.scenario)
    )  # fmt: skip
    return {
        scenario: (round(float(mean), 3), count) for scenario, mean, count in session.execute(query)
    }


def _named(column: Any, name: str) -> Any:
    """Of this scenario; nothing: of each that has a name."""
    return column == name if name else column != ""
