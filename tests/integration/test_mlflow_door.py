"""The door in front of MLflow: who may ask for what, with a real MLflow server behind it."""

import os
import subprocess
import time

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from onnx import TensorProto, helper
from starlette.routing import Route

from citybrain.core.home import reserve_socket
from citybrain.core.schemas import NewDepartment, NewKey
from citybrain.core.settings import QUIET_LIBRARIES, Settings, child_environment
from citybrain.platform.issuing import issue_key
from citybrain.platform.tracking.door import Door
from citybrain.platform.tracking.server import PREFIX, server_command, server_environment
from citybrain.platform.wiring import SYSTEM, build
from citybrain.registry.projection import ACTOR
from citybrain.registry.runs import DIGEST

V2 = f"{PREFIX}/api/2.0/mlflow"
FILES = f"{PREFIX}/api/2.0/mlflow-artifacts/artifacts"
TAGS = [
    {"key": "citybrain.licence", "value": "MIT"},
    {"key": "citybrain.domain", "value": "traffic"},
]


class City:
    """A control plane, its door, and departments that knock."""

    def __init__(self, home):
        self.plane = build(Settings(home=home))
        self.home = self.plane.truths.home
        app = FastAPI()
        app.state.plane = self.plane
        door = Door(self.plane)
        for path in (PREFIX, PREFIX + "/{path:path}"):
            app.router.routes.append(Route(path, door))
        self.http = TestClient(app, base_url="http://city.test", follow_redirects=False)
        self.keys = {"admin": issue_key(
            self.plane.truths, NewKey(department="platform", role="admin"), SYSTEM).secret}  # fmt: skip
        for name in ("traffic", "health"):
            self.plane.truths.people.add_department(NewDepartment(name=name), SYSTEM)
            new = NewKey(department=name, role="developer")
            self.keys[name] = issue_key(self.plane.truths, new, SYSTEM).secret

    def send(self, who, method, path, body=None, **options):
        headers = options.pop("headers", {})
        if who:
            headers = {"authorization": f"Bearer {self.keys[who]}"} | headers
        if body is not None:
            options["json"] = body
        return self.http.request(method, path, headers=headers, **options)

    def call(self, who, method, route, body):
        """A call that must work; what MLflow answered."""
        if method == "GET":
            answer = self.send(who, method, f"{V2}/{route}", params=body)
        else:
            answer = self.send(who, method, f"{V2}/{route}", body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refused(self, who, method, route, body, status=403):
        """A call that must not work; why."""
        answer = self.send(who, method, f"{V2}/{route}", body)
        assert answer.status_code == status, answer.text
        assert answer.json()["error_code"], "MLflow's client could not read it"
        return answer.json()["message"]

    def run_of(self, who, experiment):
        number = self.call(who, "POST", "experiments/create", {"name": experiment})["experiment_id"]
        return number, self.call(who, "POST", "runs/create", {"experiment_id": number})["run"]

    def upload(self, who, run, folder, content=b"not a graph"):
        """One file where a run keeps its artifacts."""
        place = run["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/")
        return self.send(
            who, "PUT", f"{FILES}/{place}/{folder}/model.onnx", content=content,
            headers={"content-type": "application/octet-stream"},
        )  # fmt: skip

    def version(self, who, name, run, folder, **more):
        body = {"name": name, "source": f"runs:/{run['info']['run_id']}/{folder}",
                "run_id": run["info"]["run_id"], **more}  # fmt: skip
        return self.call(who, "POST", "model-versions/create", body)["model_version"]

    def verdict(self, name, version):
        self.plane.projection.run()
        return self.plane.truths.verdicts.of(name, int(version))


def graph():
    node = helper.make_node("Add", ["x", "x"], ["y"])
    body = helper.make_graph(
        [node], "twice", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(body, opset_imports=opset, ir_version=9).SerializeToString()


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    found = City(tmp_path_factory.mktemp("door") / "home")
    reserve_socket(found.home.mlflow_socket)
    server = subprocess.Popen(
        server_command(found.home), cwd=found.home.root,
        env=child_environment(QUIET_LIBRARIES | server_environment(found.home)),
    )  # fmt: skip
    found.home.mlflow_wanted.touch()
    try:
        with found.http:
            until = time.monotonic() + 90
            while found.send("admin", "GET", f"{PREFIX}/health").text != "OK":
                assert time.monotonic() < until
                time.sleep(0.3)
            yield found
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(scope="module")
def lab(city):
    """An experiment of traffic with a run and a model file in it, registered and taken in."""
    number, run = city.run_of("traffic", "lab")
    assert city.upload("traffic", run, "good", graph()).status_code == 200
    city.call("traffic", "POST", "registered-models/create", {"name": "twice", "tags": TAGS})
    version = city.version("traffic", "twice", run, "good")
    verdict = city.verdict("twice", version["version"])
    assert verdict.problem == ""
    assert verdict.digest
    return number, run


# Keys


def mlflow_routes():
    """Every route that MLflow's own server knows, Flask's and FastAPI's, as a method and a path."""
    os.environ["MLFLOW_FLASK_SERVER_SECRET_KEY"] = "only to look at its routes"
    import re

    from mlflow.server import app, auth, fastapi_app

    found = {
        (method, re.sub(r"<[^>]*>", "1", str(rule)))
        for rule in app.url_map.iter_rules()
        for method in rule.methods
    }
    routers = [
        fastapi_app.artifact_router, fastapi_app.assistant_router, fastapi_app.gateway_router,
        fastapi_app.job_api_router, fastapi_app.mcp_server_router, fastapi_app.otel_router,
        fastapi_app.server_info_router,
    ]  # fmt: skip
    for router in routers:
        for route in router.routes:
            for method in getattr(route, "methods", None) or ["GET"]:
                found.add((method, re.sub(r"{[^}]*}", "1", route.path)))
    for name in dir(auth.routes if hasattr(auth, "routes") else auth):
        value = getattr(auth, name, None)
        if name.isupper() and isinstance(value, str) and value.startswith("/"):
            found |= {(method, value) for method in ("GET", "POST", "PATCH", "DELETE")}
    return sorted(found)


def test_no_route_of_mlflow_answers_without_a_key(city):
    routes = mlflow_routes()
    assert len(routes) > 400, "MLflow's routes were not found"
    for method, path in routes:
        answer = city.send("", method, PREFIX + path)
        assert answer.status_code == 401, (method, path, answer.text)
    assert {path for _, path in routes} >= {"/ajax-api/3.0/jobs/1", "/graphql", "/signup"}


@pytest.mark.parametrize("route", [
    ("POST", "/api/2.0/mlflow/users/create"), ("GET", "/api/2.0/mlflow/users/list"),
    ("PATCH", "/api/2.0/mlflow/users/update-admin"), ("GET", "/signup"),
    ("POST", "/api/3.0/mlflow/users/permissions/grant"), ("POST", "/api/2.0/mlflow/webhooks"),
    ("POST", "/ajax-api/3.0/jobs"), ("POST", "/gateway/mlflow/v1/chat/completions"),
    ("POST", "/api/3.0/mlflow/gateway/secrets/create"), ("GET", "/ajax-api/2.0/mlflow/gateway-proxy"),
    ("POST", "/v1/traces"), ("POST", "/ajax-api/3.0/mlflow/assistant/message"),
    ("POST", "/api/2.0/mlflow/registered-models/rename"),
    ("POST", "/api/2.0/mlflow/model-versions/transition-stage"),
    ("POST", "/api/2.0/mlflow-artifacts/mpu/create/1"),
    ("DELETE", "/api/2.0/mlflow-artifacts/artifacts/1/x"), ("TRACE", "/health"),
])  # fmt: skip
def test_what_can_call_out_or_change_who_may_what_is_closed_to_admins_too(city, route):
    answer = city.send("admin", *[route[0], PREFIX + route[1]])
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_behind_the_door_the_server_itself_asks_for_a_password(city):
    transport = httpx.HTTPTransport(uds=str(city.home.mlflow_socket))
    with httpx.Client(transport=transport, base_url="http://mlflow") as direct:
        assert direct.get("/api/2.0/mlflow/experiments/get?experiment_id=0").status_code == 401
        assert direct.get("/ajax-api/3.0/jobs/1").status_code in (401, 403, 404)
        assert direct.get("/version", headers={"host": "evil.test"}).status_code in (200, 401, 403)
        answer = direct.get("/api/2.0/mlflow/experiments/search", headers={"host": "evil.test"})
        assert answer.status_code == 403


def test_a_page_of_another_site_uses_no_remembered_password(city):
    import base64

    basic = base64.b64encode(f"me:{city.keys['traffic']}".encode()).decode()
    body = {"name": "from-elsewhere"}
    for headers in (
        {"origin": "https://evil.test"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": "http://city.test"},
    ):  # fmt: skip
        answer = city.send(
            "", "POST", f"{V2}/experiments/create", body,
            headers={"authorization": f"Basic {basic}", **headers},
        )  # fmt: skip
        assert answer.status_code == 403, headers
    form = city.send(
        "traffic", "POST", f"{V2}/experiments/create", content=b'{"name":"x"}',
        headers={"content-type": "text/plain"},
    )  # fmt: skip
    assert form.status_code == 422


# Departments


def test_departments_read_one_another_and_write_only_their_own(city, lab):
    number, run = lab
    shown = city.call("health", "GET", "runs/get", {"run_id": run["info"]["run_id"]})
    assert shown["run"]["info"]["artifact_uri"].startswith("mlflow-artifacts:/")
    own = {"run_id": run["info"]["run_id"], "key": "a", "value": 1.0, "timestamp": 1}
    assert "another department" in city.refused("health", "POST", "runs/log-metric", own)
    city.call("traffic", "POST", "runs/log-metric", own)
    assert city.upload("health", run, "theirs").status_code == 403
    for method, route, body in (
        ("POST", "model-versions/create", {"name": "twice", "source": "models:/twice/1"}),
        ("POST", "model-versions/set-tag", {"name": "twice", "version": "1", "key": "a", "value": "b"}),
        ("POST", "registered-models/alias", {"name": "twice", "alias": "dev", "version": "1"}),
        ("DELETE", "registered-models/delete", {"name": "twice"}),
    ):  # fmt: skip
        assert (
            city.refused("health", method, route, body)
            == "twice belongs to traffic, not to health."
        )
    assert "no department" in city.refused("health", "POST", "runs/create", {"experiment_id": "0"})


def test_an_algorithm_that_the_platform_registered_is_its_owners_here_too(city, tmp_path):
    import json

    from citybrain.models.package import MANIFEST

    tensors = [{"name": "x", "dtype": "FP32", "shape": [-1, 3]}]
    (tmp_path / "model.onnx").write_bytes(graph())
    (tmp_path / MANIFEST).write_text(json.dumps({
        "name": "from-above", "title": {"zh": "倍", "en": "Twice"}, "task": "tensor",
        "runtime": "onnx", "weights": "model.onnx", "domain": "traffic", "owner": "health",
        "licence": "MIT", "options": {"inputs": tensors, "outputs": [{**tensors[0], "name": "y"}]},
    }))  # fmt: skip
    taken = city.plane.catalogue.register(tmp_path, SYSTEM)
    _, run = city.run_of("health", "health-lab")
    city.upload("health", run, "good", graph())
    version = city.version("health", "from-above", run, "good")
    assert city.verdict("from-above", version["version"]).digest
    city.call("health", "POST", "registered-models/alias",
              {"name": "from-above", "alias": "dev", "version": "2"})  # fmt: skip
    assert "lineage" in city.refused("admin", "POST", "runs/delete", {"run_id": taken.run_id})
    tag = {"run_id": taken.run_id, "key": "a", "value": "b"}
    assert "another department" in city.refused("health", "POST", "runs/set-tag", tag)
    found = city.send("health", "GET", f"{V2}/artifacts/list", params={"run_id": taken.run_id})
    assert found.json()["root_uri"].startswith("mlflow-artifacts:/from-above/")
    place = found.json()["root_uri"].removeprefix("mlflow-artifacts:/")
    model = city.send("health", "GET", f"{FILES}/{place}/package/model.onnx")
    assert model.content == graph(), "a registered package can be downloaded from elsewhere"
    assert model.headers["content-security-policy"] == "default-src 'none'; sandbox"
    written = city.send("admin", "PUT", f"{FILES}/{place}/package/model.onnx", content=b"x")
    assert written.status_code == 404, "and overwritten by nobody"


# Tags, aliases, deletions


@pytest.mark.parametrize("key", [DIGEST, ACTOR, "citybrain.problem", "citybrain.signed",
                                 "citybrain.run", "citybrain.title.zh", "citybrain.alias.champion"])  # fmt: skip
@pytest.mark.parametrize("who", ["traffic", "admin"])
def test_the_platforms_tags_are_not_set_from_elsewhere(city, lab, who, key):
    _, run = lab
    told = {"key": key, "value": "admin platform x"}
    run_id = run["info"]["run_id"]
    version = {"name": "twice", "version": "1"}
    for method, route, body in (
        ("POST", "model-versions/create", {"name": "twice", "source": f"runs:/{run_id}/good",
                                           "run_id": run_id, "tags": [told]}),
        ("POST", "model-versions/set-tag", {**version, **told}),
        ("DELETE", "model-versions/delete-tag", {**version, "key": key}),
        ("POST", "registered-models/create", {"name": "other", "tags": [told]}),
        ("POST", "registered-models/set-tag", {"name": "twice", **told}),
        ("DELETE", "registered-models/delete-tag", {"name": "twice", "key": key}),
        ("POST", "runs/set-tag", {"run_id": run_id, **told}),
        ("POST", "runs/log-batch", {"run_id": run_id, "tags": [told]}),
    ):  # fmt: skip
        assert "platform's own" in city.refused(who, method, route, body)


@pytest.mark.parametrize("body", [
    {"Name": "twice", "source": "runs:/x/y"}, {"runId": "x", "name": "twice"},
    {"name": ["twice"]}, {"name": "twice", "tags": {"key": DIGEST}},
    {"name": "twice", "tags": [{"key": DIGEST, "Key": "a"}]}, {"name": "twice", "tags": ["a"]},
    {"name": "twice", "tags": [{"key": 7}]},
])  # fmt: skip
def test_a_body_that_could_be_read_in_two_ways_is_refused(city, lab, body):
    assert city.refused("traffic", "POST", "model-versions/create", body, status=422)


def test_a_body_within_a_body_or_an_address_is_refused(city, lab):
    for options in ({"content": b'"{\\"name\\": \\"twice\\"}"'}, {"content": b"[1]"},
                    {"content": b"{"}, {"content": b"{}", "params": {"name": "twice"}}):  # fmt: skip
        answer = city.send(
            "traffic", "POST", f"{V2}/registered-models/create",
            headers={"content-type": "application/json"}, **options,
        )  # fmt: skip
        assert answer.status_code in (400, 422), options


def test_the_card_may_be_told_and_who_came_is_written_by_the_door(city, lab):
    _, run = lab
    purposes = {"key": "citybrain.purposes", "value": '["planning"]'}
    tags = [{"key": "citybrain.owner", "value": "traffic"}, *TAGS, purposes]
    city.call("traffic", "POST", "registered-models/create", {"name": "told", "tags": tags})
    version = city.version("traffic", "told", run, "good")
    told = {tag["key"]: tag["value"] for tag in version["tags"]}
    assert told[ACTOR].startswith("developer traffic ")
    assert city.verdict("told", 1).digest
    assert city.plane.catalogue.algorithm("told").licence == "MIT"
    assert city.plane.catalogue.manifest("told", 1).purposes == ["planning"]
    changed = {"name": "told", "key": "citybrain.licence", "value": "GPL"}
    assert "platform's own" in city.refused("traffic", "POST", "registered-models/set-tag", changed)


def test_a_version_without_a_licence_is_taken_in_when_its_model_is_told_one_from_elsewhere(
    city, lab
):
    _, run = lab
    city.call("traffic", "POST", "registered-models/create", {"name": "silent"})
    city.version("traffic", "silent", run, "good")
    problem = city.verdict("silent", 1).problem
    assert "silent@1 says no licence and no domain" in problem, "the key says whose it is"
    for tag in TAGS:
        city.call("traffic", "POST", "registered-models/set-tag", {"name": "silent", **tag})
    assert city.verdict("silent", 1).digest
    assert city.plane.catalogue.algorithm("silent").owner == "traffic"


def test_a_version_that_names_another_owner_is_turned_away_with_the_reason(city, lab):
    _, run = lab
    tags = [{"key": "citybrain.owner", "value": "health"}]
    city.call("traffic", "POST", "registered-models/create", {"name": "stolen", "tags": TAGS})
    city.version("traffic", "stolen", run, "good", tags=tags)
    assert "belongs to health, not to traffic" in city.verdict("stolen", 1).problem
    shown = city.call("traffic", "GET", "model-versions/get", {"name": "stolen", "version": "1"})
    told = {tag["key"]: tag["value"] for tag in shown["model_version"]["tags"]}
    assert "belongs to health" in told["citybrain.problem"]
    city.call("traffic", "DELETE", "model-versions/delete", {"name": "stolen", "version": "1"})
    city.version("admin", "stolen", run, "good", tags=tags)
    assert city.verdict("stolen", 2).digest, "an admin may register for any department"
    assert city.plane.catalogue.algorithm("stolen").owner == "health"


@pytest.mark.parametrize("source", [
    "/etc", "file:///etc", "mlflow-artifacts:/../../etc", "mlflow-artifacts:/1/../../mlflow.db",
    "mlflow-artifacts:/%2e%2e/x", "mlflow-artifacts://evil.test/1/x", "s3://bucket/x",
    "https://evil.test/x", "runs://evil.test/x", "models:/../../etc", "dbfs:/x", "../x", "",
])  # fmt: skip
def test_a_version_is_made_of_nothing_but_what_mlflow_holds(city, lab, source):
    _, run = lab
    body = {"name": "twice", "source": source, "run_id": run["info"]["run_id"]}
    answer = city.send("traffic", "POST", f"{V2}/model-versions/create", body)
    assert answer.status_code in (400, 404, 422), answer.text


def test_the_address_that_a_client_sees_works_as_a_source(city, lab):
    _, run = lab
    source = f"{run['info']['artifact_uri']}/good"
    body = {"name": "twice", "source": source, "run_id": run["info"]["run_id"]}
    made = city.call("traffic", "POST", "model-versions/create", body)["model_version"]
    assert made["source"] == source
    assert city.verdict("twice", made["version"]).digest
    body["run_id"] = "0" * 32
    assert city.send("traffic", "POST", f"{V2}/model-versions/create", body).status_code >= 400


def test_champion_from_elsewhere_becomes_a_question(city, lab):
    alias = {"name": "twice", "alias": "champion", "version": "1"}
    first = city.refused("traffic", "POST", "registered-models/alias", alias)
    again = city.refused("traffic", "POST", "registered-models/alias", alias)
    assert first == again
    (asked,) = city.plane.truths.history.promotions("twice", "waiting")
    assert asked.id in first
    assert asked.version == 1
    assert "champion" not in city.plane.catalogue.client.get_registered_model("twice").aliases
    for method, name in (("DELETE", "champion"), ("POST", "retired"), ("DELETE", "retired")):
        body = {"name": "twice", "alias": name, "version": "1"}
        assert city.refused("admin", method, "registered-models/alias", body)


def test_what_versions_came_from_is_not_deleted(city, lab):
    number, run = lab
    for who in ("traffic", "admin"):
        for method, route, body in (
            ("POST", "runs/delete", {"run_id": run["info"]["run_id"]}),
            ("POST", "experiments/delete", {"experiment_id": number}),
            ("DELETE", "model-versions/delete", {"name": "twice", "version": "1"}),
            ("DELETE", "registered-models/delete", {"name": "twice"}),
        ):
            assert city.refused(who, method, route, body)
    other, free = city.run_of("traffic", "throw-away")
    city.call("traffic", "POST", "runs/delete", {"run_id": free["info"]["run_id"]})
    city.call("traffic", "POST", "experiments/delete", {"experiment_id": other})


def test_a_logged_model_that_a_version_came_from_is_not_deleted(city, lab):
    number, run = lab
    told = {"experiment_id": number, "name": "m", "source_run_id": run["info"]["run_id"]}
    model = city.call("traffic", "POST", "logged-models", told)["model"]["info"]
    assert model["artifact_uri"].startswith("mlflow-artifacts:/")
    place = model["artifact_uri"].removeprefix("mlflow-artifacts:/")
    uploaded = city.send("traffic", "PUT", f"{FILES}/{place}/model.onnx", content=graph())
    assert uploaded.status_code == 200
    route = f"logged-models/{model['model_id']}"
    ready = {"model_id": model["model_id"], "status": "LOGGED_MODEL_READY"}
    city.call("traffic", "PATCH", route, ready)
    assert city.refused("traffic", "PATCH", route, {**ready, "model_id": "m-0"}, status=422)
    made = city.call("traffic", "POST", "model-versions/create", {
        "name": "twice", "source": f"models:/{model['model_id']}", "model_id": model["model_id"],
        "run_id": run["info"]["run_id"]})["model_version"]  # fmt: skip
    assert city.verdict("twice", made["version"]).digest
    for who in ("traffic", "admin"):
        assert "lineage" in city.refused(who, "DELETE", route, {})
    free = city.call("traffic", "POST", "logged-models", told)["model"]["info"]["model_id"]
    city.call("traffic", "DELETE", f"logged-models/{free}", {})


def test_the_platforms_experiments_and_places_are_not_taken(city):
    assert "platform's own" in city.refused(
        "traffic", "POST", "experiments/create", {"name": "citybrain/twice"}
    )
    assert "artifacts" in city.refused(
        "traffic", "POST", "experiments/create", {"name": "x", "artifact_location": "file:///etc"}
    )


# Files


def test_large_files_go_through_and_too_large_ones_do_not(city, lab, monkeypatch):
    from citybrain.platform.tracking import door

    _, run = lab
    big = os.urandom(1 << 20) * 40
    assert city.upload("traffic", run, "big", big).status_code == 200
    place = run["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/")
    back = city.send("health", "GET", f"{FILES}/{place}/big/model.onnx")
    assert back.content == big
    parts = (big[start : start + (1 << 20)] for start in range(0, len(big), 1 << 20))
    assert city.upload("traffic", run, "parts", parts).status_code == 200
    assert city.send("health", "GET", f"{FILES}/{place}/parts/model.onnx").content == big
    monkeypatch.setattr(door, "MAX_ARTIFACT", 10 << 20)
    assert city.upload("traffic", run, "big", big).status_code == 413
    chunks = (big[:1000] for _ in range(20_000))
    assert city.upload("traffic", run, "big", chunks).status_code == 413


def test_an_address_is_translated_wherever_the_answer_was_cut(city, lab):
    import asyncio

    from citybrain.platform.tracking.door import _Answer
    from citybrain.platform.tracking.routes import find_route

    inside = b"file:///home/x/mlflow/artifacts/"
    text = b'{"a":"' + inside + b'1/r","b":"' + inside + b'","c":"file:///home/x"}'

    async def answered(size):
        sent = []

        async def send(message):
            sent.append(message.get("body", b""))

        answer = _Answer(send, inside)
        answer.route = find_route("GET", "/api/2.0/mlflow/runs/get")
        await answer({"type": "http.response.start", "status": 200,
                      "headers": [(b"content-type", b"application/json")]})  # fmt: skip
        for start in range(0, len(text), size):
            await answer({"type": "http.response.body", "body": text[start : start + size],
                          "more_body": True})  # fmt: skip
        await answer({"type": "http.response.body", "body": b""})
        return b"".join(sent)

    wanted = text.replace(inside, b"mlflow-artifacts:/")
    for size in (1, 2, 7, 31, 32, 33, 1000):
        assert asyncio.run(answered(size)) == wanted
