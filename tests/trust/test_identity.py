"""A1-A3: keys are kept nowhere, every route asks for one, roles may what the policy says."""

import itertools
import re
import time
from datetime import timedelta

import grpc
import httpx
import pytest
from support_identity import DEPARTMENTS, ROLES

from citybrain.core.keys import new_key
from citybrain.core.schemas import NewKey
from citybrain.platform.api.access import NOT_YOURS
from citybrain.platform.api.declared import declared
from citybrain.platform.policy import POLICY, allows
from citybrain.serving.gateway.callers import Callers
from citybrain.serving.gateway.directory import Directory
from citybrain.serving.gateway.routes import GRPC, HTTP
from citybrain.storage.moments import now

PUBLIC = {
    ("GET", "/login"), ("POST", "/login"), ("POST", "/login/choose"), ("POST", "/logout"),
    ("GET", "/language/{name}"), ("", "/static"),
    ("GET", "/v2"), ("GET", "/v2/health/live"), ("GET", "/v2/health/ready"),
}  # fmt: skip
"""All that anybody may ask without a key, word for word."""
SERVER = {"ServerLive", "ServerReady", "ServerMetadata"}
BESIDE = {"algorithm.loosen", "evaluation.data", "prediction.all"}
"""Actions that a route takes besides its own, when it is asked for more."""


def test_every_route_declares_an_action_of_the_policy_and_what_is_public_is_listed(world):
    routes = list(declared(world.app))
    assert all(route.actions and set(route.actions) <= POLICY.keys() for route in routes)
    assert not [route for route in routes if not route.methods and route.path != "/static"
                and not route.path.startswith("/mlflow")], "a websocket or a mount nobody knows"  # fmt: skip
    named = {action for route in routes for action in route.actions} | BESIDE
    named |= {action for _, _, action in HTTP} | set(GRPC.values())
    assert named == POLICY.keys(), "an action that no route takes, or one that has no rule"
    public = {
        (method, route.path)
        for route in routes
        if any(POLICY[action].anonymous for action in route.actions)
        for method in (route.methods - {"HEAD"} or {""})
    }
    public |= {(method, path) for method, path, action in HTTP if POLICY[action].anonymous}
    assert public == PUBLIC
    assert {name for name, action in GRPC.items() if POLICY[action].anonymous} == SERVER


def test_a1_a_secret_is_in_no_file_after_it_was_issued_and_used(platform, full):
    count = 1000 if full else 40
    secrets = []
    with platform.client() as city, httpx.Client(base_url=platform.url, trust_env=False) as http:
        name = f"a1-{new_key('x')[0]}"
        city.add_department(name)
        for _ in range(count):
            secret = city.add_key(NewKey(department=name, note="a1")).secret
            assert re.fullmatch(r"cb_emb_[a-z0-9]{10}_[A-Za-z0-9]{49}", secret)
            bearer = {"authorization": f"Bearer {secret}"}
            assert http.get("/api/v1/me", headers=bearer).status_code == 200
            secrets.append(secret)
        for secret in secrets[:20]:  # where it is refused, it is not written down either
            bearer = {"authorization": f"Bearer {secret}"}
            http.post("/v1/algorithms/crowd-level/predict", json={}, headers=bearer)
            http.get("/api/v1/audit", headers=bearer)
            http.get(f"/no-such-route/{secret[-20:]}?key={secret[-20:]}", headers=bearer)
    assert len(set(secrets)) == count
    tails = [secret.rpartition("_")[2].encode() for secret in secrets]
    hits, looked = [], 0
    for path in platform.home.root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            looked += len(content)
            hits += [(path, tail) for tail in tails if tail[:43] in content]
    assert looked > 1 << 20
    assert hits == []
    print(
        f"\nA1: {count} keys issued and used; 0 of their secrets in {looked >> 20} MB of the home"
    )


def test_a1_a_key_is_found_among_a_thousand_in_microseconds(world):
    secrets = [world.key("tourism").secret for _ in range(1000)]
    directory = Directory(world.truths.database, world.truths.pepper, allows, refresh=60)
    directory.load()
    took = []
    for secret in secrets * 5:
        began = time.perf_counter()
        directory.identify(secret, "", "127.0.0.1", "")
        took.append(time.perf_counter() - began)
    took.sort()
    p50, p99 = took[len(took) // 2] * 1e6, took[int(len(took) * 0.99)] * 1e6
    print(f"\nA1: a key among {len(secrets)} is found in {p50:.1f} µs (p50), {p99:.1f} µs (p99)")
    assert Callers.identify  # what was measured is what gateways ask
    assert p99 < 1000


@pytest.fixture(scope="module")
def bad(platform):
    """Six credentials that are worth nothing, as headers."""
    with platform.client() as city:
        name = f"a2-{new_key('x')[0]}"
        city.add_department(name)
        revoked = city.add_key(NewKey(department=name, role="developer"))
        city.revoke_key(revoked.id)
        ended = NewKey(department=name, expires_at=now() - timedelta(seconds=1))
        expired = city.add_key(ended).secret
    time.sleep(1.2)
    good = platform.key
    mistyped = good[:-9] + ("x" if good[-9] != "x" else "y") + good[-8:]
    keys = {
        "garbage": "garbage", "mistyped": mistyped, "revoked": revoked.secret, "expired": expired,
        "another environment's": new_key("prod")[1],
    }  # fmt: skip
    return {"none": {}} | {name: {"authorization": f"Bearer {key}"} for name, key in keys.items()}


def filled(path):
    """A path with something in the place of every parameter."""
    path = path.replace("{name}", "crowd-level").replace("{path:path}", "api/2.0/mlflow/runs/get")
    path = path.replace("{version}", "1").replace("{target}", "champion").replace("{rule}", "self")
    return re.sub(r"\{[a-z_]+\}", "0123456789ab", path)


def test_a2_every_route_refuses_every_bad_credential(world, platform, bad):
    asked = {(m, path) for m, path, action in HTTP if not POLICY[action].anonymous}
    for route in declared(world.app):
        if not any(POLICY[action].anonymous for action in route.actions):
            methods = route.methods - {"HEAD"} or {"GET", "POST", "PUT", "PATCH", "DELETE"}
            asked |= {(method, route.path) for method in methods}
    wrong = []
    with httpx.Client(base_url=platform.url, trust_env=False, timeout=60) as http:
        for (method, path), (name, headers) in itertools.product(sorted(asked), bad.items()):
            answer = http.request(method, filled(path), headers=headers)
            if answer.status_code != 401:
                wrong.append((method, path, name, answer.status_code))
    assert wrong == []
    calls = [name for name, action in GRPC.items() if not POLICY[action].anonymous]
    with grpc.insecure_channel(platform.grpc) as channel:
        for call, (name, headers) in itertools.product(calls, bad.items()):
            place = f"/inference.GRPCInferenceService/{call}"
            with pytest.raises(grpc.RpcError) as refused:
                if call == "ModelStreamInfer":
                    list(
                        channel.stream_stream(place)(
                            iter([b""]), metadata=list(headers.items()), timeout=30
                        )
                    )
                else:
                    channel.unary_unary(place)(b"", metadata=list(headers.items()), timeout=30)
            if refused.value.code() is not grpc.StatusCode.UNAUTHENTICATED:
                wrong.append((call, name, refused.value.code()))
    assert wrong == []
    total = len(asked) + len(calls)
    print(f"\nA2: {total} routes x {len(bad)} bad credentials: {total * len(bad)} of 401, 0 other")


BODIES = {
    ("POST", "/api/v1/grants"): lambda name: {"department": "tourism", "algorithm": name},
    ("POST", "/api/v1/scenarios/{name}/evaluations"): lambda name: {"algorithm": name},
}
"""Routes whose object is named in the body."""


def expected(rule, permission, role, ownership, *, in_body):
    """What the table says of a role and whose the object is: 0 for yes, else the status."""
    if role not in rule.any | rule.own:
        return 403
    named = permission is not None and (permission.of or in_body)
    if role in rule.any or not named or ownership == "own":
        return 0
    return 0 if ownership == "none" and permission.new else 404


def test_a3_every_role_may_on_every_route_what_the_policy_says_and_no_more(world):
    world.truths.home.mlflow_wanted.touch()
    client, wrong, count, routes = world.client(), [], 0, 0
    for route in declared(world.app):
        if POLICY[route.actions[0]].anonymous:
            continue
        for method in sorted(route.methods - {"HEAD"} or {"GET"}):
            routes += 1
            for role, ownership in itertools.product(ROLES, ("own", "other", "none")):
                answer, want = ask(world, client, method, route, role, ownership)
                count += 1
                if (got := refusal(answer)) != want:
                    call = (method, route.path, role, ownership)
                    wrong.append(
                        f"{call}: {got}, not {want}: {answer.status_code} {answer.text[:150]}"
                    )
    assert not wrong, "\n".join(wrong)
    print(f"\nA3: {routes} routes x {len(ROLES)} roles x 3 ownerships: {count} calls, 0 mismatches")


def refusal(answer):
    """What the policy refused, whatever else may be wrong with a call: 0, 401, 403 or 404."""
    if answer.status_code == 403 and "not_allowed" not in answer.text:
        return 0  # a gate that was not passed, and the like
    if answer.status_code == 404 and NOT_YOURS not in answer.text:
        return 0  # the caller may; there is no such thing
    return answer.status_code if answer.status_code in (401, 403, 404) else 0


def ask(world, client, method, route, role, ownership):
    """One call of the matrix, and what the table says of it."""
    permission = route.permission
    body_of = BODIES.get((method, route.path))
    mine, other = world.objects[DEPARTMENTS[0]], world.objects[DEPARTMENTS[1]]
    things = {"own": mine, "other": other, "none": None}[ownership]
    path = route.path
    if permission is not None and permission.of:
        parameter = re.search(r"\{(name|department|[a-z]+_id)\}", path)[1]
        named = things[permission.of] if things else "none-such"
        path = path.replace("{" + parameter + "}", str(named))
    path = path.replace("{name}", "scenic-crowd" if "scenarios" in path else "none-such")
    path = path.replace("{version}", str((things or mine)["version"])).replace(
        "{path:path}", "version"
    )
    path = re.sub(r"\{target\}", "challenger", path).replace("{rule}", "four-eyes")
    path = re.sub(r"\{[a-z_]+\}", "none-such", path)
    name = things["algorithm"] if things else "none-such"
    body = body_of(name) if body_of else {"no_such_field": 1}
    headers = {
        "authorization": f"Bearer {world.secret(role)}",
        "x-requested-with": "citybrain",
    }
    answer = client.request(method, path, headers=headers, json=None if method == "GET" else body)
    rule = POLICY[route.actions[0]]
    return answer, expected(rule, permission, role, ownership, in_body=body_of is not None)
