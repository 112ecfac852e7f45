"""Limits are exact: among processes, after deaths, and for what was used before they were set."""

import multiprocessing
import os
import signal
import time
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from citybrain.core.errors import NotReady, QuotaExceeded, RateLimited
from citybrain.core.home import Home
from citybrain.core.schemas import Actor, NewDepartment
from citybrain.core.schemas.quotas import NewQuota
from citybrain.serving.gateway.permits import Permit, meter_of
from citybrain.serving.metering.book import MICRO, Book, Short
from citybrain.serving.metering.keeper import Keeper
from citybrain.serving.metering.kept_book import KeptBook
from citybrain.serving.metering.till import Till
from citybrain.storage.database import Database
from citybrain.storage.journal import JournalWriter, Settled
from citybrain.storage.records.people import People
from citybrain.storage.records.quotas import Quotas
from citybrain.storage.records.usage import Usage

ZONE = ZoneInfo("Asia/Shanghai")
ADMIN = Actor(key="k", department="platform", role="admin")
NUMBER = iter(range(10**9))


def call(at=None, *, rows=1, amount=1.0, status=200, unit="rows", algorithm="flow"):
    return Settled(
        f"{os.getpid():016x}{next(NUMBER):016x}", int((at or time.time()) * 1000), "key", "health", algorithm,
        "operation", "task", 1, status, rows, 1000, 0, 500, 1, unit=unit,
        amount=amount,
    )  # fmt: skip


@pytest.fixture
def city(tmp_path):
    class City:
        home = Home(tmp_path).make()
        database = Database.at(tmp_path / "platform.db")

        def keep(self):
            self.usage.load(self.home.journal)
            self.keeper.run()

        def limit(self, **options):
            quota = self.quotas.put(NewQuota(department="health", **options), ADMIN)
            self.keep()
            return quota

        def till(self):
            book = Book(self.home.limits)
            book.enter(self.home.writers)
            journal = JournalWriter(self.home.journal)
            return book, journal, Till(book, journal)

        def used(self, quota):
            return self.kept.window(quota.slot)[1] / MICRO

    found = City()
    found.database.migrate()
    People(found.database).add_department(NewDepartment(name="health"), ADMIN)
    found.quotas, found.usage = Quotas(found.database), Usage(found.database, ZONE)
    found.kept = KeptBook(found.home.limits)
    found.kept.enter(found.home.writers)
    found.keeper = Keeper(
        found.kept, found.home.journal, found.home.writers, found.database, ZONE
    )  # fmt: skip
    yield found
    found.kept.close()
    found.database.close()


def permit_of(*quotas):
    meters = tuple(meter_of(quota) for quota in quotas)
    plain = all(meter.unit == "requests" for meter in meters)
    return Permit("operation", "", "", 3, float("inf"), meters, plain)


def answer(till, journal, permit, settled):
    taken = till.take(permit, "health", "flow")
    journal.settle(settled)
    journal.flush()
    till.settle([(taken, settled)])


def _spend(home, quota, tries, answers):
    book = Book(home.limits)
    book.enter(home.writers)
    journal = JournalWriter(home.journal)
    till = Till(book, journal)
    got = 0
    for _ in range(tries):
        try:
            answer(till, journal, permit_of(quota), call())
            got += 1
        except QuotaExceeded:
            pass
    answers.put(got)
    journal.close()


def test_several_processes_share_a_limit_exactly(city):
    quota = city.limit(amount=1000)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    spenders = [
        context.Process(target=_spend, args=(city.home, quota, 400, answers)) for _ in range(4)
    ]
    for one in spenders:
        one.start()
    for one in spenders:
        one.join()
    assert sum(answers.get() for _ in spenders) == 1000
    city.keep()
    assert city.used(quota) == 1000
    _, _, till = city.till()
    with pytest.raises(QuotaExceeded, match="1000 requests of this day: 0 are left") as caught:
        till.take(permit_of(quota), "health", "flow")
    assert caught.value.retry_after > 0


def test_a_slot_that_is_not_open_yet_lets_nothing_through(city):
    quota = city.quotas.put(NewQuota(department="health", amount=5), ADMIN)
    _, _, till = city.till()
    with pytest.raises(NotReady):
        till.take(permit_of(quota), "health", "flow")


def test_a_failed_call_gives_back_what_it_took(city):
    quota = city.limit(amount=2)
    _, journal, till = city.till()
    for _ in range(5):
        answer(till, journal, permit_of(quota), call(status=500))
    for _ in range(2):
        answer(till, journal, permit_of(quota), call())
    with pytest.raises(QuotaExceeded):
        till.take(permit_of(quota), "health", "flow")


def test_what_was_used_before_a_limit_was_set_counts(city):
    _, journal, till = city.till()
    for _ in range(7):
        journal.settle(call())
    journal.settle(call(time.time() - 3 * 86_400))  # another day
    journal.settle(call(algorithm="other"))
    journal.flush()
    city.usage.load(city.home.journal)
    for _ in range(3):  # not in the ledger yet
        journal.settle(call())
    journal.flush()
    quota = city.limit(amount=12, algorithm="flow")
    assert city.used(quota) == 10
    for _ in range(2):
        answer(till, journal, permit_of(quota), call())
    with pytest.raises(QuotaExceeded):
        till.take(permit_of(quota), "health", "flow")
    city.keep()
    assert city.used(quota) == 12


def _die(home, quota, where):
    book = Book(home.limits)
    book.enter(home.writers)
    journal = JournalWriter(home.journal)
    till = Till(book, journal)
    for _ in range(3):
        answer(till, journal, permit_of(quota), call())
    taken = till.take(permit_of(quota), "health", "flow")
    till.take(permit_of(quota), "health", "flow")
    if where == "after the journal":
        journal.settle(call())
        journal.flush()
    del taken
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("where", ["before the journal", "after the journal"])
def test_a_process_that_dies_leaves_exactly_what_its_journal_says(city, where):
    quota = city.limit(amount=10)
    dead = multiprocessing.get_context("fork").Process(target=_die, args=(city.home, quota, where))
    dead.start()
    dead.join()
    assert city.used(quota) == 5
    city.keep()
    city.keep()  # the loader lets go of the dead one's journal, then the keeper does
    assert city.used(quota) == 3 + (where == "after the journal")


def test_a_call_that_was_made_again_under_its_id_counts_once(city):
    """As after a kill: one gateway wrote it down and died before its answer, another made it anew."""
    quota = city.limit(amount=10)
    _, first, one = city.till()
    _, second, other = city.till()
    same = call()
    answer(one, first, permit_of(quota), same)
    city.keep()
    answer(other, second, permit_of(quota), same)
    answer(other, second, permit_of(quota), call())
    city.keep()
    assert city.used(quota) == 2
    first.close()
    city.keep()
    city.keep()
    assert city.used(quota) == 2
    second.close()
    city.keep()
    city.keep()
    assert city.used(quota) == 2


def test_the_book_is_made_anew_from_the_ledger_and_the_journals(city):
    quota = city.limit(amount=100)
    _, journal, till = city.till()
    for _ in range(30):
        answer(till, journal, permit_of(quota), call())
    city.keep()
    for _ in range(5):
        answer(till, journal, permit_of(quota), call())
    journal.close()  # the platform stops and starts again
    city.home.limits.unlink()
    fresh = KeptBook(city.home.limits)
    fresh.enter(city.home.writers / "anew")
    city.usage.load(city.home.journal)
    Keeper(fresh, city.home.journal, city.home.writers, city.database, ZONE).run()
    assert fresh.window(quota.slot)[1] / MICRO == 35


def test_rows_are_reserved_as_they_were_and_extended_as_they_are(city):
    quota = city.limit(amount=10, unit="rows")
    _, journal, till = city.till()
    answer(till, journal, permit_of(quota), call(rows=3))
    taken = till.take(permit_of(quota), "health", "flow")
    assert taken.most[0] == 3
    till.extend(taken, 7, 7.0)
    assert city.used(quota) == 10
    with pytest.raises(QuotaExceeded):
        till.take(permit_of(quota), "health", "flow")
    till.release(taken)
    assert city.used(quota) == 3
    taken = till.take(permit_of(quota), "health", "flow")
    with pytest.raises(QuotaExceeded, match="7 are left|4 are left"):
        till.extend(taken, 8, 8.0)


def test_a_rate_lets_a_burst_through_and_then_its_pace(city):
    quota = city.limit(amount=50, per="second", burst=5)
    _, _, till = city.till()
    for _ in range(5):
        till.take(permit_of(quota), "health", "flow")
    with pytest.raises(RateLimited, match="50 requests a second"):
        till.take(permit_of(quota), "health", "flow")
    time.sleep(0.05)
    till.take(permit_of(quota), "health", "flow")


def test_calls_at_the_same_time_are_limited(city):
    quota = city.limit(amount=2, per="once")
    _, _, till = city.till()
    first, _ = (till.take(permit_of(quota), "health", "flow") for _ in range(2))
    with pytest.raises(RateLimited, match="2 calls under way"):
        till.take(permit_of(quota), "health", "flow")
    till.release(first)
    till.take(permit_of(quota), "health", "flow")


def test_a_new_day_begins_with_nothing_but_what_is_under_way(city):
    quota = city.limit(amount=3)
    book, journal, till = city.till()
    for _ in range(2):
        answer(till, journal, permit_of(quota), call())
    till.take(permit_of(quota), "health", "flow")
    assert isinstance(book.take((meter_of(quota),), (MICRO,)), Short)
    now = int(time.time() * 1000)
    city.kept.open_window(quota.slot, (now - 1000, now - 1, now + 86_400_000))
    assert not isinstance(book.take((meter_of(quota),), (MICRO,)), Short)
    assert city.used(quota) == 2


def test_the_headers_tell_the_tightest_limit(city):
    wide, tight = city.limit(amount=1000, per="month"), city.limit(amount=4)
    _, _, till = city.till()
    taken = till.take(permit_of(wide, tight), "health", "flow")
    (name, value), (policy, allowed) = taken.headers
    assert (name, policy) == (b"ratelimit", b"ratelimit-policy")
    midnight = datetime.now(ZONE).replace(hour=0, minute=0, second=0, microsecond=0)
    left = 86_400 - (datetime.now(ZONE) - midnight).total_seconds()
    assert value.startswith(b'"requests-day";r=3;t=')
    assert abs(int(value.rpartition(b"=")[2]) - left) < 5
    assert allowed == b'"requests-day";q=4'
