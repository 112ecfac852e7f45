"""Months add up to the ledger, under the price that held; operation evaluation counts what happened."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import text

from citybrain.core.errors import Conflict, InvalidInput, RowNotFound
from citybrain.core.schemas import Actor, NewDepartment, NewGrant
from citybrain.core.schemas.bills import YUAN, NewPrice, NewRating, ScenarioUse
from citybrain.storage.journal import Settled
from citybrain.storage.ledger_rows import write_rows
from citybrain.storage.moments import now
from citybrain.storage.records.bills import Bills, price_at
from citybrain.storage.records.operations import Operations
from citybrain.storage.records.people import People

ZONE = ZoneInfo("Asia/Shanghai")
ADMIN = Actor(key="k", department="platform", role="admin")
NUMBERS = iter(range(1, 10**9))


def call(
    at, *, status=200, rows=2, amount=3.0, algorithm="ears", department="health", scenario="lake"
):
    return Settled(
        f"{next(NUMBERS):032x}", int(at.timestamp() * 1000), "key", department, algorithm,
        "operation", "task", 1, status, rows, 1000, 0, 8000, 4,
        unit="audio-seconds", amount=amount, scenario=scenario,
    )  # fmt: skip


@pytest.fixture
def city(database):
    class City:
        bills, operations = Bills(database, ZONE), Operations(database, ZONE)
        people = People(database)

        def add(self, *calls):
            with database.write() as session:
                write_rows(session, list(calls))

    with database.write() as session:
        session.execute(
            text("INSERT INTO algorithms (name, owner, approval, created_at) VALUES "
                 "('ears', 'hearing', 'self', '2020-01-01 00:00:00.000000')")
        )  # fmt: skip
    found = City()
    found.people.add_department(NewDepartment(name="health"), ADMIN)
    return found


def this_month():
    return f"{datetime.now(ZONE):%Y-%m}"


def test_a_statement_is_the_sum_of_the_ledger_under_its_prices(city):
    city.bills.set_price(NewPrice(unit="requests", yuan=0.01), ADMIN)
    city.bills.set_price(NewPrice(unit="audio-seconds", algorithm="ears", yuan=0.002), ADMIN)
    moment = now() + timedelta(seconds=1)
    city.add(
        *(call(moment) for _ in range(5)), call(moment, status=500), call(moment, department="xx")
    )
    found = city.bills.statement("health", this_month())
    lines = {(line.unit, line.price_version): line for line in found.lines if line.micros}
    assert lines["requests", 1].quantity == 5
    assert lines["audio-seconds", 1].quantity == 15
    assert found.micros == 5 * 10_000 + 15 * 2_000
    assert (found.failed, {line.owner for line in found.lines}) == (1, {"hearing"})
    number = lines["audio-seconds", 1].number
    page = city.bills.calls_of("health", this_month(), number, limit=3)
    rest = city.bills.calls_of("health", this_month(), number, after=page[-1].request_id)
    assert len(page) + len(rest) == 5
    assert sum(one.amount for one in [*page, *rest]) == 15
    with pytest.raises(RowNotFound):
        city.bills.calls_of("health", this_month(), 99)
    assert [(i.department, i.requests, i.micros) for i in city.bills.income("hearing", this_month())] == [
        ("health", 5, 80_000), ("xx", 1, 16_000),
    ]  # fmt: skip


def test_a_new_price_holds_from_its_beginning(city):
    city.bills.set_price(NewPrice(yuan=1), ADMIN)
    later = now().replace(microsecond=0) + timedelta(hours=1)
    city.bills.set_price(NewPrice(yuan=3, begins=later), ADMIN)
    city.add(call(later - timedelta(minutes=1)), call(later), call(later + timedelta(minutes=1)))
    month = f"{later.astimezone(ZONE):%Y-%m}"
    found = city.bills.statement("health", month)
    charged = [(line.price_version, line.quantity) for line in found.lines if line.micros]
    assert charged == [(1, 1), (2, 2)]
    assert found.micros == 7 * YUAN
    with pytest.raises(InvalidInput, match="past"):
        city.bills.set_price(NewPrice(yuan=2, begins=now() - timedelta(days=1)), ADMIN)


def test_an_algorithms_own_price_goes_before_that_of_all(city):
    for price in (NewPrice(yuan=1), NewPrice(yuan=5, algorithm="ears")):
        city.bills.set_price(price, ADMIN)
    book = city.bills.prices()
    assert price_at(book, "ears", "requests", now()).micros == 5 * YUAN
    assert price_at(book, "eyes", "requests", now()).micros == YUAN
    assert price_at(book, "eyes", "rows", now()) is None


def test_an_issued_month_stays_as_it_was(city):
    last = (datetime.now(ZONE).replace(day=1) - timedelta(days=1)).replace(hour=12)
    month = f"{last:%Y-%m}"
    city.add(call(last.astimezone(UTC)))
    issued = city.bills.issue("health", month, ADMIN)
    assert issued.requests == 1
    city.add(call(last.astimezone(UTC)))
    again = city.bills.statement("health", month)
    assert (again.requests, again.digest) == (1, issued.digest)
    with pytest.raises(Conflict):
        city.bills.issue("health", month, ADMIN)
    with pytest.raises(Conflict, match="not over"):
        city.bills.issue("health", this_month(), ADMIN)


def test_own_calls_and_purposes_are_those_of_the_ledger(city):
    moment = now()
    city.add(call(moment), call(moment, status=503), call(moment, department="xx"))
    assert len(city.bills.calls("health")) == 2
    assert [one.status for one in city.bills.calls("health", failed=True)] == [503]
    month = f"{moment.astimezone(ZONE):%Y-%m}"
    found = city.operations.purposes(month)
    assert [(p.department, p.requests, p.failed) for p in found] == [("health", 2, 1), ("xx", 1, 0)]
    assert [p.department for p in city.operations.purposes(month, "xx")] == ["xx"]


def test_a_scenario_is_evaluated_by_its_use(city):
    moment = now()
    city.people.add_department(NewDepartment(name="xx"), ADMIN)
    for name in ("health", "xx"):
        city.people.add_grant(NewGrant(department=name, algorithm="ears", scenario="lake"), ADMIN)
    calls = [call(moment - timedelta(hours=1)) for _ in range(3)]
    city.add(*calls, call(moment - timedelta(days=3), status=500), call(moment, scenario="other"))
    city.operations.rate(calls[0].request_id, "health", NewRating(stars=2), ADMIN)
    city.operations.rate(calls[0].request_id, "health", NewRating(stars=5, reason="right"), ADMIN)
    city.operations.rate(calls[1].request_id, "health", NewRating(stars=4), ADMIN)
    with pytest.raises(RowNotFound):
        city.operations.rate(calls[2].request_id, "xx", NewRating(stars=1), ADMIN)
    found = city.operations.scenario("lake")
    assert (found.registered, found.active_day, found.active_week, found.use_rate) == (2, 1, 1, 0.5)
    assert (found.requests, found.error_rate, found.satisfaction) == (4, 0.25, 4.5)
    assert (found.trend[-1].requests, found.trend[0].requests) == (4, 0)
    assert city.operations.overview()["lake"] == ScenarioUse(**found.model_dump(exclude={"trend"}))
    assert set(city.operations.overview()) == {"lake", "other"}
    assert set(city.operations.ratings_of([c.request_id for c in calls])) == {
        call.request_id for call in calls[:2]
    }


def test_the_use_rate_is_of_those_that_hold_a_grant_now(city):
    city.people.add_department(NewDepartment(name="xx"), ADMIN)
    for name in ("health", "xx"):
        new = NewGrant(department=name, algorithm="ears", scenario="lake")
        grant = city.people.add_grant(new, ADMIN)
    city.add(call(now()), call(now(), department="xx"))
    assert city.operations.scenario("lake").use_rate == 1.0
    city.people.revoke_grant(grant.id, ADMIN)
    found = city.operations.scenario("lake")
    assert (found.registered, found.active_week, found.use_rate) == (1, 2, 1.0)


def test_what_hardly_anybody_calls_is_listed(city):
    assert [(low.algorithm, low.requests) for low in city.operations.low_use()] == [("ears", 0)]
