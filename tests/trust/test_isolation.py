"""A4, A5, T1, N3: no department meets another's objects, protected words are nobody's to set, origins gain nothing."""

import itertools
import json
import random
import re
import secrets
import statistics
import time

import pytest
from sqlalchemy import select
from support_identity import ROLES, SYSTEM, World

from citybrain.core.schemas import NewDepartment
from citybrain.core.schemas.bills import NewRating
from citybrain.core.schemas.grants import NewGrantRequest, NewSuspension
from citybrain.core.schemas.people import Actor
from citybrain.platform.api.declared import declared
from citybrain.platform.policy import POLICY
from citybrain.storage.audit_tables import AuditRow

THIRD = "parks"
DEPARTMENTS = ("tourism", "health", THIRD)
PARAMETER = re.compile(r"\{([a-z_]+)(?::path)?\}")
OWNED = re.compile(r"\{(name|department|[a-z]+_id)\}")
MARK = "canary"


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    """Three departments with one of everything, and a mark of their own in whatever is nobody else's to read."""
    world = World(tmp_path_factory.mktemp("isolation"))
    world.truths.people.add_department(NewDepartment(name=THIRD), SYSTEM)
    world.secrets |= {(THIRD, role): world.key(THIRD, role).secret for role in ROLES[:2]}
    world.objects[THIRD] = world.make(THIRD, world.truths.home.root)
    world.marks = {name: f"{MARK}-{secrets.token_hex(8)}" for name in DEPARTMENTS}
    for name, mark in world.marks.items():
        things = world.objects[name]
        actor = Actor(key=f"k-{name}", department=name, role="department")
        world.key(name, note=mark)
        stop = NewSuspension(kind="key", target=things["key"], reason=mark)
        world.plane.controls.suspend(stop, SYSTEM)
        asked = NewGrantRequest(
            department=name, algorithm=f"{name}-flow", purpose="planning", reason=mark
        )
        world.plane.requests.ask(asked, actor)
        world.truths.evaluations.start("scenic-crowd", things["algorithm"], 1, f"{mark}.csv", actor)
        world.plane.operations.rate(things["call"], name, NewRating(stars=2, reason=mark), actor)
    return world


def roles_of(action):
    """The roles that may do it to their own department's objects alone."""
    rule = POLICY[action]
    return [role for role in ROLES[:2] if role in rule.own and role not in rule.any]


def owned_routes(world):
    """Methods and paths whose object belongs to a department, with its kind and who may ask."""
    for route in declared(world.app):
        found = route.permission
        if found is not None and found.of and not found.new and OWNED.search(route.path):
            for method in sorted(route.methods - {"HEAD"}):
                yield method, route.path, found.of, roles_of(found.action)


def filled(path, value, version="1"):
    """The path with this object, and something harmless in the place of every other parameter."""
    path = OWNED.sub(str(value), path, count=1)
    return PARAMETER.sub(lambda found: version if found[1] == "version" else "none-such", path)


def as_key(world, department, role):
    return {
        "authorization": f"Bearer {world.secret(role, department)}", "x-requested-with": "citybrain",
    }  # fmt: skip


def like(value):
    """An id of the same shape that nobody has."""
    if re.fullmatch(r"[0-9a-f]+", str(value)):
        return secrets.token_hex(len(value) // 2)
    return f"absent-{secrets.token_hex(3)}"


def said(answer, value):
    text = re.sub(r'"request_id": ?"[^"]*"|"instance": ?"[^"]*"', "", answer.text)
    return answer.status_code, text.replace(str(value), "THIS")


def test_a4_another_departments_object_and_none_are_answered_alike(city, full):
    client, count, wrong = city.client(), 0, []
    took = {"other": [], "none": []}
    for turn in range(40 if full else 1):
        for method, path, kind, roles in owned_routes(city):
            for role, (mine, theirs) in itertools.product(
                roles, itertools.permutations(DEPARTMENTS, 2)
            ):
                if not full and (mine, theirs) != ("tourism", "health"):
                    continue
                values = {"other": city.objects[theirs][kind]}
                values["none"] = like(values["other"])
                answers = {}
                for which in ("other", "none") if turn % 2 else ("none", "other"):
                    began = time.perf_counter()
                    answer = client.request(
                        method, filled(path, values[which]), headers=as_key(city, mine, role),
                        json=None if method == "GET" else {"no_such_field": 1},
                    )  # fmt: skip
                    took[which].append(time.perf_counter() - began)
                    answers[which] = said(answer, values[which])
                    count += 1
                if answers["other"] != answers["none"] or answers["other"][0] not in (403, 404):
                    wrong.append((method, path, role, answers))
    assert wrong == []
    p50 = {which: statistics.median(times) for which, times in took.items()}
    apart = abs(p50["other"] - p50["none"]) / p50["none"]
    print(
        f"\nA4: {count} swapped and absent ids, 0 foreign objects, 0 that differ; p50 apart by {apart:.1%}"
    )
    if full:
        assert count >= 5000
        assert apart < 0.05


def test_u1_an_act_is_written_down_with_the_address_that_it_came_from(city):
    client = city.client("10.4.3.2")
    body = {"kind": "algorithm", "target": "parks-flow", "reason": "a try"}
    headers = as_key(city, "parks", "developer")
    made = client.post("/api/v1/suspensions", json=body, headers=headers).json()
    assert client.delete(f"/api/v1/suspensions/{made['id']}", headers=headers).status_code == 200
    with city.truths.database.read() as session:
        newest = session.scalars(select(AuditRow.record).order_by(AuditRow.id.desc()).limit(2))
        acts = [json.loads(record) for record in newest]
    assert [act["action"] for act in acts] == ["suspension.lift", "suspension.set"]
    assert {act["source"] for act in acts} == {"10.4.3.2"}
    assert {act["department"] for act in acts} == {"parks"}


def json_schemas(document):
    """Every schema that a body of a request may have, with the operation that takes it."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            if "application/json" in content:
                yield method, path, content["application/json"]["schema"]


def test_a5_no_body_takes_a_word_that_is_not_its_own(city):
    """What may be said is listed in the description; anything else (role, owner, price …) is 422."""
    document = city.app.openapi()
    schemas = document["components"]["schemas"]
    seen, loose, count = set(), [], 0

    def look(schema, where):
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            if name not in seen:
                seen.add(name)
                look(schemas[name], name)
            return
        for part in ("anyOf", "allOf", "oneOf"):
            for inner in schema.get(part, ()):
                look(inner, where)
        if "properties" in schema:
            if schema.get("additionalProperties") is not False:
                loose.append(where)
            for inner in schema["properties"].values():
                look(inner, where)
        if isinstance(schema.get("items"), dict):
            look(schema["items"], where)

    for method, path, schema in json_schemas(document):
        count += 1
        look(schema, f"{method} {path}")
    assert loose == []
    assert count > 15
    print(f"\nA5: {count} bodies, {len(seen)} schemas: every one refuses unknown words")


def test_t1_what_is_a_departments_own_is_read_by_nobody_else(city, full):
    """Random reads by each department, its own ids and others', over the API and the console."""
    dice, client = random.Random(7), city.client()
    paths = sorted(
        route.path for route in declared(city.app)
        if "GET" in route.methods and route.permission is not None and "mlflow" not in route.path
    )  # fmt: skip
    found, foreign, statuses = 0, [], {}
    ids = [str(value) for things in city.objects.values() for value in things.values()]
    for _ in range(20_000 if full else 700):
        mine = dice.choice(DEPARTMENTS)
        path = PARAMETER.sub(lambda _: dice.choice(ids), dice.choice(paths))
        query = dice.choice(
            ("", "", f"?department={dice.choice(DEPARTMENTS)}", f"?algorithm={dice.choice(ids)}",
             "?limit=1000", f"?under={dice.choice(DEPARTMENTS)}")
        )  # fmt: skip
        role = dice.choice(ROLES[:2])
        answer = client.get(path + query, headers=as_key(city, mine, role))
        statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
        found += city.marks[mine] in answer.text
        foreign += [
            (mine, role, path + query) for name, mark in city.marks.items()
            if name != mine and mark in answer.text
        ]  # fmt: skip
    assert foreign == []
    assert found >= 10, "the marks are nowhere to be seen: nothing was tested"
    metrics = client.get("/metrics", headers=as_key(city, "platform", "admin")).text
    logs = [path.read_text(errors="replace") for path in city.truths.home.logs.glob("*.log")]
    assert not any(MARK in text for text in (metrics, *logs))
    print(
        f"\nT1: {sum(statuses.values())} answers {dict(sorted(statuses.items()))}: own marks {found}, foreign 0"
    )


def test_n3_another_host_or_origin_gains_nothing(city):
    client, count = city.client(), 0
    for route in declared(city.app):
        public = any(POLICY[action].anonymous for action in route.actions)
        for method in sorted(route.methods - {"HEAD"} or {"GET", "POST", "PUT", "PATCH", "DELETE"}):
            path = PARAMETER.sub("none-such", route.path)
            evil = {"host": "evil.example", "origin": "http://evil.example"}
            answer = client.request(method, path, headers=evil)
            count += 1
            assert "access-control-allow-origin" not in answer.headers
            if not public:
                assert answer.status_code in (401, 403), (method, path, answer.status_code)
    key = city.truths.home.admin_key.read_text()
    signed_in = client.post("/login", data={"key": key}, headers={"origin": "http://city.test"})
    assert signed_in.status_code == 303
    done = []
    for route in declared(city.app):
        for method in sorted(route.methods & {"POST", "PUT", "PATCH", "DELETE"}):
            if any(POLICY[action].anonymous for action in route.actions):
                continue
            path = PARAMETER.sub("none-such", route.path)
            answer = client.request(
                method, path, headers={"origin": "http://evil.example"}, data={"a": "b"}
            )
            count += 1
            if answer.status_code not in (401, 403):
                done.append((method, path, answer.status_code))
    assert done == [], "a cookie is believed from another origin"
    print(f"\nN3: {count} calls with another host or origin: refused, and no CORS header")
