"""The console's pages over a real home: sign in, headers, escaping, languages, refusals."""

import json
import re
import threading
import time

import anyio
import httpx
import pytest
import uvicorn
import yaml
from starlette.testclient import TestClient

from citybrain.core.names import Ref
from citybrain.core.schemas import Actor, NewCanary, NewDepartment, NewGrant, NewKey
from citybrain.core.settings import Settings
from citybrain.platform.console.attempts import Crowd
from citybrain.platform.control import create_app
from citybrain.platform.issuing import issue_key
from citybrain.platform.wiring import SYSTEM, build
from citybrain.serving.gateway.forward import Forwarder
from citybrain.storage.journal import Settled

HOST = "http://city.test"
EVIL = '"><script>alert(1)</script>'
OURS = {"x-requested-with": "citybrain"}


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    found = build(Settings(home=tmp_path_factory.mktemp("home")))
    people = found.truths.people
    people.add_department(NewDepartment(name="tourism", title_zh=EVIL, title_en=EVIL), SYSTEM)
    people.add_department(NewDepartment(name="traffic"), SYSTEM)
    folder = tmp_path_factory.mktemp("package")
    (folder / "model.onnx").write_bytes(b"not opened before it is deployed")
    manifest = {
        "name": "crowd-level", "title": {"zh": f"客流{EVIL}", "en": f"Crowd {EVIL}"},
        "description": EVIL, "task": "tabular-classification", "runtime": "onnx",
        "weights": "model.onnx", "domain": "tourism", "owner": "tourism", "licence": "Apache-2.0",
        "options": {"features": ["hour"], "labels": ["a", "b"], "example": {"hour": 7.0}},
    }  # fmt: skip
    (folder / "algorithm.yaml").write_text(yaml.safe_dump(manifest, allow_unicode=True))
    version = found.catalogue.register(folder, SYSTEM)
    found.truths.deployments.want("crowd-level", "challenger", 1, SYSTEM)
    found.truths.deployments.saw(
        "crowd-level", "challenger", state="failed", message=EVIL, version=1
    )
    report = {
        "items": 10, "metrics": {"macro-f1": {"value": 0.9, "low": 0.8, "high": 0.95, "greater_is_better": 1.0}},
        "baseline": {"name": "majority", "metrics": {"macro-f1": 0.2}}, "champion": {},
        "slices": {f"day={EVIL}": {"macro-f1": 0.5, "items": 5.0}},
        "gate": [{"metric": "macro-f1", "passed": False, "says": "macro-f1 is 0.9, wanted at least 0.95"}],
        "worst": [{"item": EVIL, "value": 0.0, "tags": {"day": EVIL}}], "latency_ms": {"p50": 1.0, "p95": 2.0},
    }  # fmt: skip
    one = found.truths.evaluations.start("scenic-crowd", "crowd-level", version.version, "", SYSTEM)
    found.truths.evaluations.change(one.id, state="done", passed=False, report=report)
    found.truths.history.ask("crowd-level", "champion", version.version, one.id, SYSTEM)
    return found


@pytest.fixture(scope="module")
def app(plane):
    return create_app(plane)


@pytest.fixture
def visitor(app):
    app.state.crowd = Crowd()
    return TestClient(app, base_url=HOST, follow_redirects=False)


def sign_in(client, secret, **headers):
    headers = headers or {"origin": HOST}
    return client.post("/login", data={"key": secret, "next": "/algorithms"}, headers=headers)


@pytest.fixture
def admin(plane, visitor):
    assert sign_in(visitor, plane.truths.home.admin_key.read_text()).status_code == 303
    return visitor


@pytest.fixture
def tourist(plane, visitor):
    new = NewKey(department="tourism", purposes=["operation", "research"], note=EVIL)
    key = issue_key(plane.truths, new, SYSTEM)
    assert sign_in(visitor, key.secret).status_code == 303
    return visitor, key


def test_who_is_not_signed_in_is_sent_to_the_sign_in_page(visitor):
    for path in ("/", "/algorithms", "/algorithms/crowd-level", "/departments", "/users"):
        answer = visitor.get(path)
        assert answer.status_code == 401
        assert f'name="next" value="{path}"' in answer.text
    assert 'name="next" value="/algorithms?q=a%20b"' in visitor.get("/algorithms?q=a%20b").text


def test_a_part_of_a_page_sends_the_whole_page_to_sign_in(visitor):
    answer = visitor.get("/overview/now", headers={"hx-request": "true"})
    assert (answer.status_code, answer.headers["hx-redirect"]) == (401, "/login")


def test_the_session_cookie_is_kept_from_scripts_and_other_sites(plane, visitor, app):
    answer = sign_in(visitor, plane.truths.home.admin_key.read_text())
    assert answer.headers["location"] == "/algorithms"
    cookie = answer.headers["set-cookie"]
    assert all(
        part in cookie for part in ("HttpOnly", "SameSite=strict", "Max-Age=28800", "Path=/")
    )
    assert "Secure" not in cookie
    tls = TestClient(app, base_url="https://city.test", follow_redirects=False)
    answer = sign_in(tls, plane.truths.home.admin_key.read_text(), origin="https://city.test")
    assert "Secure" in answer.headers["set-cookie"]


def test_a_wrong_key_is_refused_in_words_and_too_many_are_refused_at_once(visitor):
    answer = sign_in(visitor, "cb_emb_nobody")
    assert answer.status_code == 401
    assert 'role="alert"' in answer.text
    assert "set-cookie" not in answer.headers
    assert "cb_emb_nobody" not in answer.text
    for _ in range(9):
        sign_in(visitor, "cb_emb_nobody")
    refused = sign_in(visitor, "cb_emb_nobody")
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site", "origin": HOST},
        {"sec-fetch-site": "same-site"},
        {"referer": HOST},
    ],
)
def test_another_site_cannot_sign_anybody_in(plane, visitor, headers):
    answer = sign_in(visitor, plane.truths.home.admin_key.read_text(), **headers)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_signing_out_takes_the_header_that_no_other_site_can_send(admin):
    assert admin.post("/logout").status_code == 403
    assert admin.get("/").status_code == 200
    assert admin.post("/logout", headers=OURS).status_code == 303
    assert admin.get("/").status_code == 401


def test_acts_of_the_api_take_the_same_header(admin, plane):
    waiting = plane.truths.history.promotions(state="waiting")[0]
    path = f"/api/v1/promotions/{waiting.id}/approve"
    assert admin.post(path).status_code == 401
    assert plane.truths.history.promotions(state="waiting")[0].id == waiting.id


def test_a_form_longer_than_a_key_is_refused(visitor):
    assert sign_in(visitor, "x" * 10_000).status_code == 413


def test_a_revoked_key_is_signed_out(plane, tourist):
    client, key = tourist
    assert client.get("/").status_code == 200
    plane.truths.people.revoke_key(key.id, SYSTEM)
    assert client.get("/").status_code == 401


def test_a_forged_or_foreign_session_is_nobody(visitor, plane):
    for value in ("", "x", "admin.99999999999.00", "é"):
        visitor.cookies.set("cb_session", value.encode("ascii", "ignore").decode())
        assert visitor.get("/").status_code == 401


def test_pages_carry_a_strict_policy_and_are_not_stored(admin):
    for path in (
        "/",
        "/login",
        "/algorithms",
        "/algorithms/crowd-level",
        "/departments",
        "/users",
        "/account",
        "/algorithms/none",
    ):
        headers = admin.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_every_file_that_a_page_loads_is_ours_and_cacheable(admin):
    loaded = set(
        re.findall(
            r'(?:src|href)="([^"#]+\.(?:js|css|svg)(?:\?[^"#]*)?)["#]',
            admin.get("/algorithms/crowd-level").text,
        )
    )
    assert len(loaded) >= 9
    for path in loaded:
        assert path.startswith("/static/")
        answer = admin.get(path)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert "immutable" not in admin.get("/static/app.js").headers["cache-control"]
    assert admin.get("/static/../pages.py").status_code == 404
    assert admin.get("/static/%2e%2e/pages.py").status_code == 404


@pytest.mark.parametrize("language", ["zh", "en"])
def test_what_people_wrote_is_never_markup(admin, language):
    admin.cookies.set("cb_lang", language)
    paths = [
        "/",
        "/overview/lately?span=month",
        "/algorithms",
        "/algorithms/crowd-level",
        "/departments?span=30",
    ]
    for path in [
        *paths,
        '/algorithms?q="><script>alert(1)</script>',
        "/login?next=%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
    ]:
        text = admin.get(path).text
        assert "<script>alert" not in text, path
    assert "&lt;script&gt;alert(1)" in admin.get("/algorithms/crowd-level").text


def test_the_language_follows_the_browser_and_then_the_choice(visitor):
    assert (
        'lang="zh-CN"' in visitor.get("/login", headers={"accept-language": "zh-CN,en;q=0.8"}).text
    )
    assert '<html lang="en">' in visitor.get("/login", headers={"accept-language": "en-US"}).text
    answer = visitor.get("/language/en?next=/departments")
    assert answer.headers["location"] == "/departments"
    assert "访问密钥" not in visitor.get("/login", headers={"accept-language": "zh-CN"}).text
    assert visitor.get("/language/zh?next=//evil.example").headers["location"] == "/"
    assert "set-cookie" not in visitor.get("/language/de").headers


def test_an_unknown_algorithm_is_a_page_and_not_a_stack_trace(admin):
    answer = admin.get("/algorithms/none-such", headers={"accept-language": "en"})
    assert answer.status_code == 404
    assert "algorithm_not_found" in answer.text
    assert "<main" in answer.text


def test_the_catalogue_finds_by_text_domain_and_task(admin):
    def names(query):
        return re.findall(r'href="/algorithms/([a-z-]+)"', admin.get(f"/algorithms{query}").text)

    assert (
        names("")
        == names("?q=客流")
        == names("?domain=tourism&task=tabular-classification")
        == ["crowd-level"]
    )
    assert (
        names("?q=nothing-like-it") == names("?domain=traffic") == names("?task=forecasting") == []
    )


def test_a_page_of_an_algorithm_shows_gate_slices_and_how_to_call(admin):
    admin.cookies.set("cb_lang", "zh")
    text = admin.get("/algorithms/crowd-level").text
    assert "macro-f1 为 0.9，要求不低于 0.95" in text
    assert "/v1/algorithms/crowd-level/predict" in text
    assert 'name="hour"' in text
    example = admin.get("/algorithms/crowd-level/example.json")
    assert example.json() == {"inputs": [{"features": {"hour": 7.0}}]}


def test_the_page_and_card_of_a_remote_model_say_what_the_digest_covers(admin, plane, tmp_path):
    sides = {
        side: [{"name": name, "dtype": "FP32", "shape": [-1, 2]}]
        for side, name in (("inputs", "x"), ("outputs", "y"))
    }
    place = "triton://gpu-1:8000/flow@2"
    (tmp_path / "remote.json").write_text(json.dumps({"address": place, **sides}))
    manifest = {
        "name": "far-flow", "title": {"zh": "远", "en": "Far"}, "task": "tensor", "runtime": "triton",
        "weights": "remote.json", "domain": "traffic", "owner": "traffic", "licence": "MIT",
        "options": sides,
    }  # fmt: skip
    (tmp_path / "algorithm.yaml").write_text(yaml.safe_dump(manifest))
    plane.catalogue.register(tmp_path, SYSTEM)
    for page in ("/algorithms/far-flow", "/algorithms/far-flow/card.md"):
        shown = admin.get(page, headers={"accept-language": "en"}).text
        assert place in shown
        assert "not the weights there" in shown
    assert "not the weights there" not in admin.get("/algorithms/crowd-level").text


def test_a_department_sees_its_own_usage_keys_and_grants_only(plane, tourist):
    client, _ = tourist
    plane.truths.people.add_grant(NewGrant(department="traffic", algorithm="crowd-level"), SYSTEM)
    moment = int(time.time() * 1000)
    calls = [
        Settled(
            request_id=f"r{n}",
            at_ms=moment,
            key="k",
            department=department,
            algorithm="crowd-level",
            purpose="operation",
            door="task",
            version=1,
            status=200,
            rows=1,
            micros=900,
        )  # fmt: skip
        for n, department in enumerate(["traffic"] * 7 + ["tourism"] * 3)
    ]
    with plane.truths.database.write() as session:
        plane.truths.usage._count(session, calls)
    for path in ("/", "/overview/lately", "/departments"):
        text = re.sub(r'<ul class="tree">.*?</ul>', "", client.get(path).text, flags=re.S)
        assert not re.search(r">\s*traffic\s*<", text)
    totals = re.findall(r"<dd>([\d,]+)", client.get("/overview/now").text)
    assert totals[0] == "3"
    assert 'data-by="day"' in client.get("/overview/now").text


def test_a_department_sees_its_own_jobs_with_their_progress(tourist, plane, app):
    client, _ = tourist
    for job, department in (("job-1", "tourism"), ("job-2", "traffic")):
        actor = Actor(key="k", department=department, role="department")
        plane.truths.jobs.submit(
            job, Ref("crowd-level"), "tabular-classification", "operation", "jsonl", 10, 5, actor,
            most=5,
        )  # fmt: skip
        problem = {"row": 2, "code": "bad_json", "message": EVIL}
        plane.truths.jobs.started(job)
        plane.truths.jobs.progress(job, 5, 1, [problem])
        plane.truths.jobs.waits(job, {"code": "not_ready", "message": EVIL, "hint": ""})
    for path in ("/departments", "/departments/jobs"):
        text = client.get(path).text
        assert "job-1" in text
        assert "job-2" not in text
        assert '<progress max="10" value="5"' in text
        assert 'hx-delete="/v1/jobs/job-1"' in text
        assert "<script>alert" not in text
    assert client.delete("/v1/jobs/job-1").status_code == 401  # as another site's page would
    assert client.delete("/v1/jobs/job-2", headers=OURS).status_code == 404
    assert client.delete("/v1/jobs/job-1", headers=OURS).json()["state"] == "cancelled"
    assert 'href="/v1/jobs/job-1/result"' in client.get("/departments/jobs").text


def test_the_overview_tells_of_a_release_that_was_taken_back(admin, plane):
    assert "正在线上试用的版本" not in admin.get("/overview/lately").text
    traffics = plane.truths.traffics
    canary = traffics.start("crowd-level", NewCanary(target="challenger"), 2, 1, SYSTEM)
    shown = admin.get("/overview/lately", headers={"accept-language": "en"}).text
    assert "Releases that are tried on live calls" in shown
    assert "on its way" in shown
    traffics.move(canary.id, "rolled-back", 0, f"20 of 30 calls failed, 0.5% before it {EVIL}")
    admin.cookies.set("cb_lang", "zh")
    shown = admin.get("/overview/lately").text
    assert "已自动回退" in shown
    assert "20 of 30 calls failed" in shown
    assert "<script>alert" not in shown


def test_an_upload_beyond_the_limit_is_refused_before_it_is_read(admin):
    claim = {"content-length": str(1 << 40), "content-type": "multipart/form-data; boundary=x"}
    answer = admin.post("/v1/jobs", headers={**claim, **OURS}, content=b"")
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_a_key_with_several_purposes_may_say_which_one_a_trial_serves(tourist):
    client, _ = tourist
    assert (
        '<select id="purpose"><option>operation</option><option>research</option>'
        in client.get("/algorithms/crowd-level").text
    )


def test_only_those_who_may_approve_see_the_button(admin, plane, app):
    assert "/approve" in admin.get("/overview/lately").text
    other = TestClient(app, base_url=HOST, follow_redirects=False)
    key = issue_key(
        plane.truths,
        NewKey(department="traffic"),
        Actor(key="x", department="platform", role="admin"),
    )
    sign_in(other, key.secret)
    assert "/approve" not in other.get("/overview/lately").text


def test_the_console_is_not_in_the_api_document(admin):
    paths = admin.get("/api/openapi.json").json()["paths"]
    assert not {"/", "/login", "/algorithms"} & paths.keys()


def test_a_session_is_never_lent_to_the_next_caller_by_the_forwarder(plane, app):
    """The gateway forwards for everybody: it must keep no cookie of anybody."""
    socket = plane.truths.home.control_socket
    config = uvicorn.Config(app, uds=str(socket), log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.05)

    async def through_the_gateway():
        forward = Forwarder(socket)
        transport = httpx.ASGITransport(app=forward)
        async with httpx.AsyncClient(transport=transport, base_url=HOST) as first:
            form = {"key": plane.truths.home.admin_key.read_text()}
            answer = await first.post("/login", data=form, headers={"origin": HOST})
            assert answer.status_code == 303
            assert (await first.get("/departments")).status_code == 200
        async with httpx.AsyncClient(transport=transport, base_url=HOST) as stranger:
            seen = (await stranger.get("/departments")).status_code
        await forward.close()
        return seen

    try:
        assert anyio.run(through_the_gateway) == 401
    finally:
        server.should_exit = True
        thread.join(10)
