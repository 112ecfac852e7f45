"""Persons at the console: first sign-in, codes, locks, sessions, and the pages about them."""

import re
import time

import pyotp
import pytest
from starlette.testclient import TestClient

from citybrain.core.schemas import NewDepartment, NewKey, NewUser
from citybrain.core.settings import Settings
from citybrain.platform import factors
from citybrain.platform.console.attempts import Crowd
from citybrain.platform.control import create_app
from citybrain.platform.issuing import issue_key
from citybrain.platform.wiring import SYSTEM, build

HOST = "http://city.test"
OURS = {"x-requested-with": "citybrain", "origin": HOST}
FORM = {"origin": HOST}
PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    found = build(Settings(home=tmp_path_factory.mktemp("home")))
    for name, parent in (("city-hall", ""), ("tourism", "city-hall"), ("traffic", "")):
        found.truths.people.add_department(NewDepartment(name=name, parent=parent), SYSTEM)
    return found


@pytest.fixture(scope="module")
def app(plane):
    return create_app(plane)


@pytest.fixture
def browser(app):
    app.state.crowd = Crowd()
    return TestClient(app, base_url=HOST, follow_redirects=False)


@pytest.fixture
def new_browser(app):
    return lambda: TestClient(app, base_url=HOST, follow_redirects=False)


def field(text, name):
    return re.search(rf'name="{name}" value="([^"]*)"', text)[1]


def choose(client, name, one_time, *, code=True, password=PASSWORD):
    """The first sign-in; the secret of the codes."""
    form = {"name": name, "password": one_time, "next": "/departments"}
    page = client.post("/login", data=form, headers=FORM)
    assert page.status_code == 200, page.text
    secret = re.search(r"<code>([A-Z2-7]{32})</code>", page.text)[1]
    shown = pyotp.TOTP(secret).now() if code else ""
    form = {
        "ticket": field(page.text, "ticket"), "next": field(page.text, "next"), "code": shown,
        "password": password, "again": password,
    }  # fmt: skip
    done = client.post("/login/choose", data=form, headers=FORM)
    assert (done.status_code, done.headers.get("location")) == (303, "/departments"), done.text
    return secret


def enter(client, name, password=PASSWORD, code="", **form):
    data = {"name": name, "password": password, "code": code, **form}
    return client.post("/login", data=data, headers=FORM)


def test_an_admin_lets_somebody_in_who_chooses_scans_and_works(plane, browser, new_browser):
    key = plane.truths.home.admin_key.read_text()
    assert browser.post("/login", data={"key": key}, headers=FORM).status_code == 303
    assert "/api/v1/users" in browser.get("/users").text
    new = {
        "name": "wang-wei",
        "title": "王伟",
        "department": "platform",
        "role": "admin",
        "level": "personal",
    }
    made = browser.post("/api/v1/users", json=new, headers=OURS).json()
    assert made["one_time_until"]
    page = browser.get("/users", headers={"accept-language": "en"}).text
    assert "王伟" in page and made["password"] not in page
    assert "has to sign in until" in page
    person = new_browser()
    secret = choose(person, "wang-wei", made["password"])
    me = person.get("/api/v1/me").json()
    assert (me["user"], me["role"], me["department"]) == ("wang-wei", "admin", "platform")
    assert "wang-wei" in person.get("/").text
    account = person.get("/account", headers={"accept-language": "en"}).text
    assert "wang-wei" in account and "Signed in until" in account
    later = new_browser()
    used = pyotp.TOTP(secret).now()
    for code in ("", used, "000000"):
        assert enter(later, "wang-wei", code=code).status_code == 401
    fresh = pyotp.TOTP(secret).at(time.time() + factors.STEP)
    assert enter(later, "wang-wei", code=fresh).status_code == 303
    assert later.get("/").status_code == 200
    assert later.post("/logout", headers=OURS).status_code == 303
    stolen = person.cookies["cb_session"]
    assert person.post("/logout", headers=OURS).status_code == 303
    thief = new_browser()
    thief.cookies.set("cb_session", stolen)
    assert thief.get("/").status_code == 401, "a session that was ended stays ended"


def test_a_caller_may_do_without_codes_and_sees_only_what_the_role_sees(plane, browser):
    made = plane.reception.add(NewUser(name="li-na", department="tourism"), SYSTEM)
    choose(browser, "li-na", made.password, code=False)
    assert browser.get("/departments").status_code == 200
    for path, method in (("/users", "GET"), ("/api/v1/users", "GET"), ("/api/v1/audit", "GET")):
        assert browser.request(method, path).status_code == 403
    refused = browser.post(
        "/api/v1/users", json={"name": "me-too", "department": "tourism"}, headers=OURS
    )
    assert (refused.status_code, refused.json()["code"]) == (403, "not_allowed")
    assert "/users" not in browser.get("/").text


def test_what_is_wrong_with_a_choice_is_said_and_can_be_mended(plane, browser):
    made = plane.reception.add(NewUser(name="zhao", department="platform", role="auditor"), SYSTEM)
    page = enter(browser, "zhao", made.password)
    said = []
    for password, again, code in (
        ("short", "short", ""), (PASSWORD, "another", ""), (PASSWORD, PASSWORD, ""),
        (PASSWORD, PASSWORD, "000000"), (made.password, made.password, ""),
    ):  # fmt: skip
        form = {
            "ticket": field(page.text, "ticket"),
            "password": password,
            "again": again,
            "code": code,
        }
        page = browser.post("/login/choose", data=form, headers={**FORM, "accept-language": "en"})
        assert page.status_code == 422
        assert "set-cookie" not in page.headers
        said.append(re.search(r'class="error" role="alert">([^<]+)', page.text)[1])
    assert [text.split()[0] for text in said] == ["This", "The", "This", "This", "This"]
    assert "not the code" in said[3]
    for ticket in ("", "zhao.99999999999.00", field(page.text, "ticket")[:-2] + "00"):
        form = {"ticket": ticket, "password": PASSWORD, "again": PASSWORD, "code": ""}
        assert browser.post("/login/choose", data=form, headers=FORM).status_code == 401
    for path in ("/login/choose", "/account/password"):
        assert browser.post(
            path, data=form, headers={"origin": "http://evil.example"}
        ).status_code in (401, 403)


def test_a_person_changes_the_password_in_the_console(plane, browser, new_browser):
    made = plane.reception.add(NewUser(name="chen", department="traffic", role="developer"), SYSTEM)
    choose(browser, "chen", made.password, code=False)
    other = new_browser()
    assert enter(other, "chen").status_code == 303
    form = {"old": "wrong", "password": "a new day has come", "again": "a new day has come"}
    refused = browser.post("/account/password", data=form, headers={**OURS, "hx-request": "true"})
    assert (refused.status_code, refused.json()["code"]) == (403, "not_allowed")
    assert browser.post("/account/password", data=form).status_code == 401, (
        "no page of ours sent it"
    )
    form["old"] = PASSWORD
    done = browser.post("/account/password", data=form, headers={**OURS, "hx-request": "true"})
    assert (done.status_code, done.headers["hx-redirect"]) == (204, "/account")
    assert browser.get("/account").status_code == 200
    assert other.get("/account").status_code == 401
    assert enter(other, "chen").status_code == 401
    assert enter(other, "chen", "a new day has come").status_code == 303


def test_a_key_has_an_account_page_and_no_password(plane, browser):
    browser.post("/login", data={"key": plane.truths.home.admin_key.read_text()}, headers=FORM)
    page = browser.get("/account").text
    assert 'hx-post="/account/password"' not in page
    assert (
        browser.post(
            "/account/password", data={}, headers={**OURS, "hx-request": "true"}
        ).status_code
        == 409
    )


def test_a_disabled_person_is_signed_out_and_let_in_again(plane, browser):
    made = plane.reception.add(NewUser(name="sun", department="traffic"), SYSTEM)
    choose(browser, "sun", made.password, code=False)
    plane.truths.users.disable("sun", SYSTEM)
    assert browser.get("/").status_code == 401
    assert enter(browser, "sun").status_code == 401
    plane.truths.users.enable("sun", SYSTEM)
    assert enter(browser, "sun").status_code == 303
    assert browser.get("/").status_code == 200


def test_in_production_admins_and_auditors_come_as_persons(tmp_path):
    plane = build(Settings(home=tmp_path, profile="production"))
    app = create_app(plane)
    client = TestClient(app, base_url="https://city.test", follow_redirects=False)
    headers = {"origin": "https://city.test"}
    for path in (plane.truths.home.admin_key, plane.truths.home.auditor_key):
        answer = client.post("/login", data={"key": path.read_text()}, headers=headers)
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
        bearer = {"authorization": f"Bearer {path.read_text()}"}
        assert client.get("/api/v1/me", headers=bearer).status_code == 200, "the key itself works"
    key = issue_key(plane.truths, NewKey(department="platform", role="developer"), SYSTEM)
    answer = client.post("/login", data={"key": key.secret}, headers=headers)
    assert answer.status_code == 303
    assert "Secure" in answer.headers["set-cookie"]
    assert "admin.key" not in client.get("/login").text


def test_the_tree_of_departments_is_everybodys_to_see_and_keys_are_not(plane, browser):
    key = issue_key(plane.truths, NewKey(department="tourism", note="visitor app"), SYSTEM)
    other = issue_key(plane.truths, NewKey(department="traffic", note="signals"), SYSTEM)
    browser.post("/login", data={"key": key.secret}, headers=FORM)
    page = browser.get("/departments").text
    tree = re.search(r'<ul class="tree">.*?</ul>', page, re.S)[0]
    assert re.findall(r'class="depth-(\d)"', tree) == ["0", "1", "0", "0"]
    assert "visitor app" in page and "signals" not in page
    assert f'data-send="/api/v1/keys/{key.id}/rotation"' in page
    refused = browser.post(f"/api/v1/keys/{other.id}/rotation", json={}, headers=OURS)
    assert refused.status_code == 404
    fresh = browser.post(f"/api/v1/keys/{key.id}/rotation", json={}, headers=OURS).json()
    assert fresh["secret"].startswith("cb_emb_")
    assert fresh["secret"] not in browser.get("/departments").text
