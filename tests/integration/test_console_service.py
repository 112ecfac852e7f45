"""The console as a service between departments: access, limits, bills, own calls, notices, scenarios."""

import csv
import io
import re
from datetime import datetime, timedelta

import pytest
from support_identity import CITY, World, manifest

from citybrain.core.schemas import Actor, NewGrant, NewKey
from citybrain.core.schemas.bills import NewPrice
from citybrain.core.schemas.grants import NewGrantRequest, NewSuspension
from citybrain.core.schemas.quotas import NewAllotment, NewQuota
from citybrain.core.schemas.traffic import NewCanary
from citybrain.platform.console.inbox import sentence
from citybrain.platform.console.texts import texts
from citybrain.platform.wiring import SYSTEM, issue_key
from citybrain.storage.moments import now

OURS = {"x-requested-with": "citybrain"}
ENGLISH = {"accept-language": "en"}
PAGES = (
    "/access", "/limits", "/bills", "/bills/prices", "/calls", "/notices", "/scenarios",
    "/scenarios/scenic-crowd",
)  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("home"))


@pytest.fixture
def enter(world):
    def signed_in(role, department="tourism", secret=""):
        client = world.client()
        shown = secret or world.secret(role, department)
        answer = client.post("/login", data={"key": shown}, headers={"origin": CITY})
        assert answer.status_code == 303
        client.headers.update(ENGLISH)
        client.follow_redirects = True
        return client

    return signed_in


def month(world):
    return f"{datetime.now(world.truths.settings.zone):%Y-%m}"


def section(text, name):
    """One section of a page, by its id."""
    return re.search(rf'<section class="[^"]*" id="{name}">.*?</section>', text, re.S)[0]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_page_is_there_for_every_role_strict_and_in_its_language(world, enter, language):
    for role in ("developer", "department", "admin", "auditor"):
        client = enter(role)
        client.cookies.set("cb_lang", language)
        for path in PAGES:
            page = client.get(path)
            assert page.status_code == 200, (role, path, page.text[:300])
            assert ("中文" in page.text) == (language == "en")
            policy = page.headers["content-security-policy"]
            assert "unsafe" not in policy and page.headers["cache-control"] == "no-store"
            assert not re.search(r"\sstyle=|<style|<script(?! src)|\son[a-z]+=", page.text), path
            assert re.search(r'aria-current="page"', page.text), path


def test_who_is_not_signed_in_sees_none_of_it(world):
    for path in (*PAGES, "/calls/x", "/access/grants/x", "/bills/tourism/2026-11"):
        assert world.client().get(path).status_code == 401


def test_a_department_asks_its_owner_answers_and_the_first_call_is_there_to_copy(world, enter):
    asker, owner = enter("department", "health"), enter("developer", "tourism")
    said = {
        "department": "health", "algorithm": "tourism-flow", "purpose": "research",
        "scenario": "scenic-crowd", "basis": "city order 12", "reason": "beds near the lake",
        "until": "2027-06-30T23:59:59+08:00",
    }  # fmt: skip
    assert 'data-send="/api/v1/grant-requests"' in asker.get("/access").text
    asked = asker.post("/api/v1/grant-requests", json=said, headers=OURS).json()
    mine = section(asker.get("/access").text, "waiting")
    assert "beds near the lake" in mine and f"{asked['id']}/withdraw" in mine
    assert f"{asked['id']}/approve" not in mine
    assert "health asks for it (purpose research)" in owner.get("/notices").text
    theirs = section(owner.get("/access").text, "waiting")
    assert f'data-send="/api/v1/grant-requests/{asked["id"]}/approve"' in theirs
    assert "city order 12" in theirs and "Scenic spot crowd warning" in theirs
    done = owner.post(
        f"/api/v1/grant-requests/{asked['id']}/approve", json={"answer": "welcome"}, headers=OURS
    ).json()
    assert 'class="count"' in asker.get("/access").text
    assert "The request was approved. Answer: welcome" in asker.get("/notices").text
    place = f"/access/grants/{done['grant_id']}"
    assert f'href="{place}"' in section(asker.get("/access").text, "grants")
    page = asker.get(place).text
    assert "An admin issues one" in page or "Ask an admin to issue one" in page, (
        "no key has research"
    )
    assert "-H &#34;X-Purpose: research&#34;" in page
    assert "purpose=&#34;research&#34;" in page
    admin = enter("admin")
    assert f'data-many value="{said["purpose"]}"' in admin.get(place).text
    new = {"department": "health", "purposes": ["research"]}
    key = admin.post("/api/v1/keys", json=new, headers=OURS).json()
    page = asker.get(place).text
    assert f"/api/v1/keys/{key['id']}/rotation" in page and key["secret"] not in page
    assert owner.get(place).status_code == 404, "another department's grant"
    other, none = owner.get(place).text, owner.get("/access/grants/none-such").text
    assert other.replace(done["grant_id"], "none-such") == none.replace(
        place, "/access/grants/none-such"
    )


def test_who_asked_is_not_shown_the_button_where_two_persons_are_needed(world, enter):
    world.truths.history.set_approval("tourism-flow", "four-eyes", SYSTEM)
    key = world.key("tourism", "developer")
    actor = Actor(key=key.id, department="tourism", role="developer")
    asked = world.plane.requests.ask(
        NewGrantRequest(department="tourism", algorithm="tourism-flow", purpose="eyes", reason="x"),
        actor,
    )
    mine = section(enter("", secret=key.secret).get("/access").text, "waiting")
    assert f"{asked.id}/approve" not in mine and f"{asked.id}/refuse" in mine
    assert "another person does" in mine
    assert f"{asked.id}/approve" in section(enter("developer").get("/access").text, "waiting")
    world.truths.history.set_approval("tourism-flow", "self", SYSTEM)
    world.plane.requests.withdraw(asked.id, actor)


def test_a_grant_is_suspended_goes_on_and_ends(world, enter):
    grant = world.truths.people.add_grant(
        NewGrant(department="health", algorithm="tourism-flow", purpose="stopping"), SYSTEM
    )
    owner, asker, admin = enter("developer"), enter("department", "health"), enter("admin")
    assert f'value="{grant.id}"' in section(owner.get("/access").text, "grants")
    assert f'value="{grant.id}"' not in asker.get("/access").text, "not its own to stop"
    stop = {"kind": "grant", "target": grant.id, "reason": "wrong at night"}
    found = owner.post("/api/v1/suspensions", json=stop, headers=OURS).json()
    shown = section(asker.get("/access").text, "grants")
    assert "suspended" in shown and "wrong at night" in shown
    assert "wrong at night" in asker.get(f"/access/grants/{grant.id}").text
    assert f'hx-delete="/api/v1/suspensions/{found["id"]}"' in owner.get("/access").text
    assert owner.delete(f"/api/v1/suspensions/{found['id']}", headers=OURS).status_code == 200
    assert f'hx-delete="/api/v1/grants/{grant.id}"' in admin.get("/access").text
    assert f'hx-delete="/api/v1/grants/{grant.id}"' not in owner.get("/access").text
    assert admin.delete(f"/api/v1/grants/{grant.id}", headers=OURS).status_code == 200
    told = asker.get("/notices").text
    for words in ("calls are refused", "calls go on", "The grant for stopping was ended"):
        assert words in told


def test_a_department_sees_its_own_requests_and_grants_only(world, enter):
    world.truths.people.add_grant(
        NewGrant(department="health", algorithm="health-flow", basis="secret basis"), SYSTEM
    )
    assert "secret basis" not in enter("department", "tourism").get("/access").text
    assert "secret basis" in enter("auditor").get("/access").text
    assert "/api/v1/grants/" not in enter("auditor").get("/access").text


def test_stopped_keys_and_departments_are_shown_to_their_own_and_to_overseers(world, enter):
    stop = NewSuspension(kind="key", target=world.objects["health"]["key"], reason="lost on a bus")
    found = world.plane.controls.suspend(stop, SYSTEM)
    pages = {
        role: enter(role, department).get("/access").text
        for role, department in (("department", "health"), ("developer", "tourism"), ("auditor", ""), ("admin", ""))
    }  # fmt: skip
    seen = {role for role, page in pages.items() if "lost on a bus" in page}
    assert seen == {"department", "auditor", "admin"}
    lifts = f'hx-delete="/api/v1/suspensions/{found.id}"'
    assert {role for role, page in pages.items() if lifts in page} == {"admin"}
    world.plane.controls.lift(found.id, SYSTEM)


def test_limits_show_what_is_used_and_left_and_only_admins_set_them(world, enter):
    rows = world.plane.quotas.rows
    rows.put(NewQuota(department="tourism", amount=4), SYSTEM)
    rows.put(NewQuota(department="tourism", amount=50, per="second", burst=80), SYSTEM)
    rows.put(NewQuota(department="health", amount=777_777), SYSTEM)
    rows.allot("tourism", NewAllotment(replicas=2, memory=3 << 30), SYSTEM)
    world.plane.keeper.run()
    shown = enter("department").get("/limits").text
    one = section(shown, "tourism")
    assert '<progress class="" max="4.0" value="1.0"' in one and ">3</td>" in one
    assert "bursts of 80" in one
    assert "777,777" not in shown and "data-send" not in shown
    all_of_them = enter("admin").get("/limits").text
    assert "777,777" in all_of_them and 'data-send="/api/v1/quotas"' in all_of_them
    form = section(all_of_them, "tourism")
    assert 'name="memory" data-times="1073741824"' in form and 'value="3.0"' in form
    assert 'hx-delete="/api/v1/quotas/' in form


def test_a_bill_leads_to_its_calls_its_price_and_its_files(world, enter):
    world.plane.bills.set_price(NewPrice(yuan=0.25, note="trial"), SYSTEM)
    asker, this = enter("department"), month(world)
    world.call("ab" * 16, "tourism", "tourism-flow", 1)
    page = asker.get("/bills")
    assert page.url.path == f"/bills/tourism/{this}"
    lines = section(page.text, "lines")
    number = re.findall(rf'href="(/bills/tourism/{this}/\d+)"', lines)[-1]
    assert "¥0.25" in lines and 'href="/bills/prices#price-1"' in lines
    assert 'id="price-1"' in asker.get("/bills/prices").text
    calls = asker.get(number).text
    assert f'href="/calls/{"ab" * 16}"' in calls
    assert "/api/v1/prices" not in asker.get("/bills/prices").text
    assert "/api/v1/prices" in enter("admin").get("/bills/prices").text
    file = re.search(r'href="(/api/v1/statements/[^"]+csv)"', page.text)[1]
    table = list(csv.reader(io.StringIO(asker.get(file).text.lstrip("\ufeff"))))
    assert table[0][:3] == ["department", "month", "number"] and len(table) > 1
    assert asker.get(f"/bills/health/{this}").status_code == 404
    assert asker.get("/bills/tourism/2026-13").status_code == 422
    assert asker.get(f"{number}9").status_code == 404
    assert "tourism-flow" in section(page.text, "income"), "what is called of its own algorithms"


def test_a_month_that_is_over_is_issued_by_an_admin(world, enter):
    admin = enter("admin")
    past = f"{datetime.now(world.truths.settings.zone) - timedelta(days=60):%Y-%m}"
    path = f"/api/v1/statements/tourism/{past}"
    assert f'hx-post="{path}"' in admin.get(f"/bills/tourism/{past}").text
    assert f'hx-post="{path}"' not in enter("department").get(f"/bills/tourism/{past}").text
    assert 'hx-post="/api/v1/statements' not in admin.get("/bills").text
    assert admin.post(path, headers=OURS).status_code == 201
    page = admin.get(f"/bills/tourism/{past}").text
    assert "it stays as it is" in page and f'hx-post="{path}"' not in page


def test_own_calls_are_found_and_rated_and_others_are_not_there(world, enter):
    asker, other = enter("department"), world.objects["health"]["call"]
    mine = world.objects["tourism"]["call"]
    page = asker.get("/calls").text
    assert f'href="/calls/{mine}"' in page and other not in page
    assert f'href="/calls/{other}"' not in asker.get(f"/calls?id={other}").text
    assert f'href="/calls/{mine}"' in asker.get(f"/calls?id={mine}").text
    assert mine not in asker.get("/calls?failed=true").text
    assert asker.get(f"/calls/{other}").status_code == asker.get("/calls/none").status_code == 404
    assert enter("auditor").get(f"/calls/{other}").status_code == 200
    one = asker.get(f"/calls/{mine}").text
    assert f'data-send="/v1/requests/{mine}/rating"' in one
    said = {"stars": "4", "reason": "late by a minute"}
    assert asker.post(f"/v1/requests/{mine}/rating", json=said, headers=OURS).status_code == 201
    one = asker.get(f"/calls/{mine}").text
    assert "Rated 4 of 5" in one and "late by a minute" in one
    assert "★★★★☆" in asker.get("/calls").text
    assert "late by a minute" in enter("developer").get("/algorithms/tourism-flow").text
    assert (
        "late by a minute" not in enter("department", "health").get("/algorithms/tourism-flow").text
    )


def test_a_department_pins_a_version_and_is_told_before_the_champion_changes(world, enter):
    truths, owner, asker = world.truths, enter("developer"), enter("department")
    truths.history.move(
        "tourism-flow", "champion", 1, expected=0, reason="registered", actor=SYSTEM
    )
    folder = truths.home.work / "second"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"other weights")
    (folder / "algorithm.yaml").write_text(str(manifest("tourism-flow", "tourism")))
    second = world.plane.catalogue.register(folder, SYSTEM).version
    form = 'data-send="/api/v1/algorithms/tourism-flow/pin"'
    assert form in asker.get("/algorithms/tourism-flow").text
    pinned = asker.put("/api/v1/algorithms/tourism-flow/pin", json={"version": "1"}, headers=OURS)
    assert pinned.status_code == 200
    assert "stays with version 1; the champion is 1" in asker.get("/calls").text
    assert "you stay here" in asker.get("/algorithms/tourism-flow").text
    truths.history.set_approval("tourism-flow", "four-eyes", SYSTEM)
    asker.post("/api/v1/notices/read", headers=OURS)
    assert 'class="count"' not in asker.get("/").text
    asked = truths.history.ask("tourism-flow", "champion", second, "", SYSTEM)
    assert truths.history.aliases("tourism-flow")["tourism-flow"]["champion"] == 1
    told = asker.get("/notices").text
    assert "The champion is to change from version 1 to 2" in told
    assert "You stay with version 1." in told
    assert '<b class="count" aria-label="1 unread notices">1</b>' in told
    asker.cookies.set("cb_lang", "zh")
    assert "现役版本将由 1 变为 2，等待批准。本部门固定在版本 1" in asker.get("/notices").text
    other = Actor(key="k9", department="tourism", role="developer", user="wang")
    truths.history.approve(asked.id, other, self_allowed=False)
    assert "现役版本已由 1 变为 2" in asker.get("/notices").text
    newest = world.plane.notices.find("tourism")[0]
    assert asker.post(f"/api/v1/notices/{newest.id}/read", headers=OURS).status_code == 200
    assert world.plane.notices.unread("tourism") == 1
    foreign = enter("department", "health")
    assert foreign.post(f"/api/v1/notices/{newest.id}/read", headers=OURS).status_code == 404
    assert asker.delete("/api/v1/algorithms/tourism-flow/pin", headers=OURS).status_code == 200
    assert owner.get("/notices").text.count("article") == asker.get("/notices").text.count(
        "article"
    )


def test_every_notice_that_the_platform_writes_has_words_in_both_languages(world):
    truths, plane, name = world.truths, world.plane, "health-flow"
    actor = Actor(key="k8", department="health", role="developer", user="zhou")
    truths.history.set_approval(name, "four-eyes", SYSTEM)
    first = truths.history.ask(name, "champion", 1, "", actor)
    truths.history.withdraw(first.id, actor)
    truths.history.move(name, "champion", 1, expected=0, reason="promotion", actor=actor)
    truths.history.move(name, "champion", 1, expected=1, reason="rollback from 1", actor=actor)
    stop = plane.controls.suspend(NewSuspension(kind="algorithm", target=name, reason="x"), actor)
    plane.controls.lift(stop.id, actor)
    truths.endings.retire(name, 0, now() + timedelta(days=9), "tourism-flow", actor)
    truths.endings.undo(name, 0, actor)
    for answer in (plane.requests.refuse, plane.requests.approve):
        new = NewGrantRequest(
            department="health", algorithm=name, purpose="words", reason="x",
            until=now() + timedelta(days=2),
        )  # fmt: skip
        asked = plane.requests.ask(new, actor)
        alone = {} if answer == plane.requests.refuse else {"alone": True}
        done = answer(asked.id, "because", SYSTEM, **alone)
    for end in ("rolled-back", "stopped"):
        new = NewCanary(target="2", steps=[50])
        canary = truths.traffics.start(name, new, 2, 1, actor)
        truths.traffics.move(canary.id, end, 0, "because")
    plane.notices.grants_that_end()
    truths.people.revoke_grant(done.grant_id, SYSTEM)
    found = plane.notices.find("health", limit=1000)
    for notice in found:
        for language in ("zh", "en"):
            said = sentence(language, notice)
            assert said and not said.startswith(notice.kind), notice
            assert not re.search(r"[{}]|\bNone\b", said)
    worded = {key.removeprefix("notice.") for key in texts("en") if key.startswith("notice.")}
    assert {n.kind for n in found} == {key for key in worded if not key.startswith("with_")}


def test_scenarios_count_who_is_registered_and_who_calls(world, enter):
    client = enter("department")
    page = client.get("/scenarios/scenic-crowd").text
    figures = dict(re.findall(r"<dt>([^<]+)</dt><dd>([\d.]+|–)", page))
    assert figures["Registered"] == "1", "health, by the request that was approved"
    assert "The last eight weeks" in page and page.count('<td class="bar">') == 8
    assert client.get("/scenarios/none-such").status_code == 404
    assert "Algorithms of low use" not in client.get("/scenarios").text
    assert "Algorithms of low use" in enter("auditor").get("/scenarios").text


def test_a_key_with_few_scopes_sees_few_pages(world, enter):
    new = NewKey(department="tourism", scopes=["platform.read", "quota.read"])
    client = enter("", secret=issue_key(world.truths, new, SYSTEM).secret)
    page = client.get("/").text
    assert re.findall(r'href="(/[a-z]*)"', page.split("<nav")[1].split("</nav>")[0]) == [
        "/",
        "/limits",
    ]
    assert client.get("/calls").status_code == 403
    assert 'href="/notices"' not in page
