"""Logs are kept as long as somebody says, no shorter than the law, and their removal is audited."""

import os
import time
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update
from support_identity import World

from citybrain.core.dates import month_of
from citybrain.core.errors import InvalidInput, RowNotFound
from citybrain.core.schemas.bills import NewPrice
from citybrain.platform.wiring import SYSTEM
from citybrain.serving.rollout.shadow import ShadowBook, forget, pairs
from citybrain.serving.wire import Call, Reply
from citybrain.storage.bill_tables import NoticeRow
from citybrain.storage.moments import now
from citybrain.storage.records.audit import entries
from citybrain.storage.records.notices import tell
from citybrain.storage.tables import RequestRow


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    return World(tmp_path_factory.mktemp("retention"))


def ask(city, method, path, role="admin", **more):
    headers = {"authorization": f"Bearer {city.secret(role)}"}
    return city.client().request(method, f"/api/v1{path}", headers=headers, **more)


def days(city, log):
    return next(one for one in ask(city, "GET", "/retention").json() if one["log"] == log)


def removals(city, log):
    found = entries(city.truths.database, limit=1000)
    return [e.detail for e in found if e.action == "retention.expire" and e.object == log]


def test_it_is_said_by_admins_and_seen_by_all(city):
    assert days(city, "audit")["days"] == 1095
    done = ask(city, "PUT", "/retention/shadows", json={"days": 5})
    assert (done.status_code, done.json()["days"], done.json()["default"]) == (200, 5, 30)
    assert ask(city, "PUT", "/retention/shadows", "developer", json={"days": 1}).status_code == 403
    assert ask(city, "GET", "/retention", "department").status_code == 200
    assert ask(city, "PUT", "/retention/shadows", json={"days": None}).json()["days"] == 30


def test_the_least_is_kept_and_what_cannot_take_effect_is_refused(city):
    answer = ask(city, "PUT", "/retention/audit", json={"days": 100})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert "184 days at least" in answer.json()["detail"]
    for days_ in (0, -1, 1.5, "x", 10**9):
        assert ask(city, "PUT", "/retention/audit", json={"days": days_}).status_code == 422
    with pytest.raises(InvalidInput, match="CITYBRAIN_SERVING__REPEAT_HOURS"):
        city.plane.retention.put("repeats", 3, SYSTEM)
    with pytest.raises(RowNotFound, match="no log"):
        city.plane.retention.put("everything", 3, SYSTEM)


def test_calls_go_by_whole_months_and_their_bill_stays(city):
    city.plane.bills.set_price(NewPrice(algorithm="", unit="requests", yuan=0.5), SYSTEM)
    zone = city.truths.settings.zone
    local = (now() - timedelta(days=800)).astimezone(zone)
    month = f"{local:%Y-%m}"
    begin, end = month_of(month, zone)
    with city.truths.database.write() as session:
        calls = session.scalars(select(RequestRow.request_id)).all()
        assert len(calls) == 2
        for call, at in zip(sorted(calls), (begin, end - timedelta(seconds=1)), strict=True):
            session.execute(update(RequestRow).where(RequestRow.request_id == call).values(at=at))
    departments = city.plane.retention._expired.departments(begin, end)
    assert departments == ["health", "tourism"]
    city.call("f" * 32, "tourism", "tourism-flow", 1)
    city.plane.retention.run()
    with city.truths.database.read() as session:
        assert session.scalars(select(RequestRow.request_id)).all() == ["f" * 32]
    for department in departments:
        statement = city.plane.bills.statement(department, month)
        assert (statement.requests, bool(statement.digest)) == (1, True), "issued before they went"
    assert [detail["removed"] for detail in removals(city, "calls")] == [2]
    city.plane.retention.run()
    assert len(removals(city, "calls")) == 1, "nothing is said where nothing was removed"


def test_a_month_that_has_days_left_is_not_touched(city):
    zone, desk = city.truths.settings.zone, city.plane.retention
    begin, _ = month_of(f"{now().astimezone(zone):%Y-%m}", zone)
    with city.truths.database.write() as session:
        session.execute(update(RequestRow).values(at=begin))
    assert desk._calls(now()) == 0


def test_notices_and_process_logs(city):
    database, home = city.truths.database, city.truths.home
    with database.write() as session:
        tell(session, "tourism", "grant.ends", "tourism-flow")
        tell(session, "tourism", "grant.ends", "tourism-flow")
        session.flush()
        ours = select(NoticeRow.id).where(NoticeRow.kind == "grant.ends")
        first = session.scalars(ours).first()
        old = now() - timedelta(days=366)
        session.execute(update(NoticeRow).where(NoticeRow.id == first).values(at=old))
    stale, fresh = home.logs / "gateway.log.2", home.logs / "gateway.log"
    session_old = home.ray / "session_2026-01-01_00-00-00_000000_1"
    (session_old / "logs").mkdir(parents=True)
    for path in (stale, fresh):
        path.write_text("a line\n")
    for path in (stale, session_old):
        os.utime(path, (time.time() - 91 * 86_400,) * 2)
    city.plane.retention.run()
    assert (stale.exists(), session_old.exists(), fresh.exists()) == (False, False, True)
    with database.read() as session:
        kept = select(NoticeRow).where(NoticeRow.kind == "grant.ends")
        assert len(session.scalars(kept).all()) == 1
    assert removals(city, "notices")[0]["removed"] == 1
    assert removals(city, "process-logs")[0]["removed"] == 2


def test_results_of_jobs_follow_what_is_said(city):
    jobs, job = city.truths.jobs, city.objects["health"]["job"]
    jobs.ended(job, "done", now() + timedelta(days=7))
    city.plane.retention.run()
    assert jobs.get(job).expires_at - now() > timedelta(days=6.9), "the setting's, as nobody spoke"
    ask(city, "PUT", "/retention/jobs", json={"days": 2})
    city.plane.retention.run()
    ended = jobs.get(job)
    assert ended.expires_at - ended.finished_at == timedelta(days=2)
    ask(city, "PUT", "/retention/jobs", json={"days": 30})
    city.plane.retention.run()
    assert jobs.get(job).expires_at - ended.finished_at == timedelta(days=30)


def test_predictions_are_kept_no_longer_than_is_said(city):
    desk = city.plane.retention
    assert (desk.prediction_days(None), desk.prediction_days(90)) == (30, 90)
    ask(city, "PUT", "/retention/predictions", json={"days": 10})
    assert (desk.prediction_days(None), desk.prediction_days(90)) == (10, 10)
    assert (desk.prediction_days(3), city.plane.predictions.sampling("tourism-flow").keep_days) == (
        3, 10,
    )  # fmt: skip


def test_old_pairs_of_shadows_are_forgotten(tmp_path):
    book, moment = ShadowBook(tmp_path), datetime(2026, 6, 1, tzinfo=UTC)
    for hours in (-48, -24, 24):
        at = int((moment + timedelta(hours=hours)).timestamp() * 1000)
        call = Call("oip", b"{}", -1, "", f"{at:012x}" + "0" * 20)
        reply = Reply(b"{}", -1, 1, "", "")
        book.write("flow", call, (1, reply, 2, reply))
        if hours < 0:
            book.write("lake", call, (1, reply, 2, reply))
    assert forget(tmp_path, moment) == 2
    assert len(list(pairs(tmp_path, "flow"))) == 1
    assert list((tmp_path / "lake").iterdir()) == []
    assert forget(tmp_path, moment) == 0
