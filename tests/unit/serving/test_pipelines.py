"""Calls through pipelines: right answers to the right items, each step in the ledger, errors that say where."""

import asyncio
import time
from collections import Counter

import numpy as np
import orjson
import pytest
from support_door import ADMIN, MANIFEST, Door

from citybrain.core.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelFailed,
    NotGranted,
    PipelineFailed,
    VersionNotFound,
)
from citybrain.core.names import parse_ref
from citybrain.core.schemas import NewGrant
from citybrain.core.schemas.traffic import NewTraffic
from citybrain.core.settings import ServingSettings
from citybrain.core.tensors import bytes_array
from citybrain.models.pipeline import pipeline_in
from citybrain.serving.gateway.dispatch import Dispatch
from citybrain.serving.gateway.gateway import Asked, Gateway
from citybrain.serving.gateway.stops import Stops
from citybrain.serving.protocols import oip
from citybrain.serving.rollout.shadow import ShadowBook
from citybrain.serving.wire import Call, Reply, Served, error_reply
from citybrain.storage.journal import Settled, read_from
from citybrain.storage.records.traffic import Traffics

PIPE = {
    **MANIFEST, "task": "composition", "runtime": "pipeline", "weights": "pipeline.yaml",
    "options": {"example": [{"text": "loud"}], "media": "audio"},
}  # fmt: skip


def topic(item):
    label = "noise" if "loud" in item["text"] else "road"
    return {
        "label": label,
        "probabilities": {"noise": 0.9 if label == "noise" else 0.2, "road": 0.3},
    }


def broken(item):
    raise InvalidInput("it is too long", hint="Shorten it.")


MODELS = {
    "topic": topic,
    "length": lambda item: {
        "label": "road",
        "probabilities": {"noise": 0.0, "road": float(len(item["text"]))},
    },
    "level": lambda item: {"level": len(item["text"])},
    "broken": broken,
    "heard": lambda item: {"text": "loud"},
}


class City(Door):
    """Algorithms that are functions of one item, and pipelines over them."""

    def __init__(self, folder):
        super().__init__(folder)
        self.folder = folder
        self.calls = Counter()
        self.pause = 0.0
        for name in MODELS:
            self.run(name, MANIFEST | {"name": name, "owner": "traffic"})

    def run(self, name, manifest, target="champion", version=1, **more):
        self.deployments.want(name, target, 1, ADMIN)
        running = {"app": f"{name}.{target}", "version": version, "manifest": manifest, **more}
        self.deployments.saw(name, target, state="running", version=version, running=running)

    def pipe(self, plan, name="pipe", owner="traffic", grant=True, **more):
        self.run(name, PIPE | {"name": name, "owner": owner}, plan=plan, **more)
        if grant:
            self.people.add_grant(NewGrant(department="health", algorithm=name), ADMIN)

    async def send(self, route, calls):
        await asyncio.sleep(self.pause)
        replies = []
        for call in calls:
            self.calls[route.algorithm] += 1
            items = [{}] if call.content_type == "audio/wav" else orjson.loads(call.body)["inputs"]
            try:
                results = [MODELS[route.algorithm](item) for item in items]
                replies.append(Reply(orjson.dumps({"results": results}), -1, len(items), "", ""))
            except InvalidInput as error:
                replies.append(error_reply(error.code, error.message, error.hint))
        return Served(replies)

    def ask(self, items, name="pipe", **more):
        body = orjson.dumps({"inputs": items}) if isinstance(items, list) else items
        kind = "audio/wav" if isinstance(items, bytes) else "application/json"
        return self.ask_all([Call("task", body, -1, kind, "")], name, **more)[0]

    def ask_all(self, calls, name="pipe", **more):
        async def go():
            self.directory.load()
            dispatch = Dispatch(self.journal, self.send, ServingSettings(), lambda _: 1)
            stops = Stops(self.directory, dispatch, None, ShadowBook(self.folder / "shadows"))
            gateway = Gateway(self.directory, dispatch, stops)
            asked = Asked(self.directory.identify(self.key), parse_ref(name), "task", **more)
            calls_ = [c._replace(request_id=gateway.new_request_id()) for c in calls]
            found = await asyncio.gather(
                *(gateway.infer(asked, call) for call in calls_), return_exceptions=True
            )
            await asyncio.gather(*stops._tasks)
            return found

        found = asyncio.run(go())
        if len(found) == 1 and isinstance(found[0], Exception):
            raise found[0]
        return found

    def results(self, items, name="pipe"):
        return orjson.loads(self.ask(items, name).reply.body)["results"]

    def settled(self):
        (path,) = (self.folder / "journal").iterdir()
        return [line for line in read_from(path, 0)[0] if line[0] == "S"]


@pytest.fixture
def city(tmp_path):
    return City(tmp_path)


TRIAGE = {
    "steps": [
        {"name": "kind", "algorithm": "topic", "input": "$input"},
        {"name": "detail", "switch": {
            "by": "$kind.label",
            "cases": {"noise": {"algorithm": "level", "input": {"text": "$input.text"}}},
            "otherwise": {"value": {"street": True}},
        }},
    ],
    "answer": {"topic": "$kind.label", "detail": "$detail", "was": "$input.text"},
}  # fmt: skip


def test_items_go_their_own_ways_and_come_back_in_order(city):
    city.pipe(TRIAGE)
    texts = ["loud music", "pothole", "loud", "hole"]
    assert city.results([{"text": text} for text in texts]) == [
        {"topic": "noise", "detail": {"level": 10}, "was": "loud music"},
        {"topic": "road", "detail": {"street": True}, "was": "pothole"},
        {"topic": "noise", "detail": {"level": 4}, "was": "loud"},
        {"topic": "road", "detail": {"street": True}, "was": "hole"},
    ]
    assert city.calls == {"topic": 1, "level": 1}, "each step is one call for all items"


def test_the_ledger_has_the_call_and_each_step_of_it(city):
    city.pipe(TRIAGE)
    city.ask([{"text": "loud"}, {"text": "hole"}])
    rows = {line[5]: line for line in city.settled()}
    assert {name: (line[7], line[9], line[10]) for name, line in rows.items()} == {
        "pipe": ("task", 200, 2), "topic": ("step", 200, 2), "level": ("step", 200, 1),
    }  # fmt: skip
    assert len({line[1] for line in rows.values()}) == 3
    assert {line[4] for line in rows.values()} == {"health"}


def test_server_timing_names_the_steps(city):
    city.pipe(TRIAGE)
    city.pause = 0.02
    timing = dict(
        part.split(";dur=") for part in city.ask([{"text": "loud"}]).timing.decode().split(", ")
    )
    assert list(timing) == ["kind", "detail", "total"]
    assert float(timing["kind"]) >= 20
    assert float(timing["total"]) >= 40


@pytest.mark.parametrize(
    ("combine", "weights", "expected"),
    [
        ("mean", [], {"label": "road", "probabilities": {"noise": 0.45, "road": 2.15}}),
        ("mean", [9, 1], {"label": "noise", "probabilities": {"noise": 0.81, "road": 0.67}}),
        ("majority", [1, 3], {"label": "road", "probabilities": {"noise": 0.0, "road": 4.0}}),
        ("majority", [], {"label": "noise", "probabilities": {"noise": 0.9, "road": 0.3}}),
    ],
)
def test_an_ensemble_combines_its_members(city, combine, weights, expected):
    members = [{"algorithm": "topic"}, {"algorithm": "length"}]
    ensemble = {"combine": combine, "members": members, "weights": weights}
    city.pipe({"steps": [{"name": "vote", "ensemble": ensemble}]})
    (found,) = city.results([{"text": "loud"}])
    assert found["label"] == expected["label"]
    assert found["probabilities"] == pytest.approx(expected["probabilities"])


def test_a_list_of_members_keeps_their_order(city):
    members = [{"algorithm": "level"}, {"value": 5}]
    city.pipe({"steps": [{"name": "all", "ensemble": {"combine": "list", "members": members}}]})
    assert city.results([{"text": "loud"}]) == [[{"level": 4}, 5]]


def test_files_go_to_the_first_step_as_they_came(city):
    steps = [{"name": "heard", "algorithm": "heard"}, {"name": "kind", "algorithm": "topic"}]
    city.pipe({"steps": steps})
    assert orjson.loads(city.ask(b"RIFF").reply.body)["results"][0]["label"] == "noise"
    city.pipe(
        {"steps": [{"name": "kind", "algorithm": "topic", "input": {"text": "$input.text"}}]},
        "other",
    )
    with pytest.raises(InvalidInput, match="files have none"):
        city.ask(b"RIFF", "other")


def test_the_tensor_doors_take_and_give_json_texts(city):
    city.pipe(TRIAGE)
    texts = bytes_array([b'{"text":"loud"}', b'{"text":"hole"}'])
    body = orjson.dumps({"inputs": [{"name": "input", "datatype": "BYTES", "shape": [2],
                                     "data": [text.decode() for text in texts]}]})  # fmt: skip
    answered = city.ask_all([Call("oip", body, -1, "", "")])[0]
    reply = orjson.loads(answered.reply.body)
    assert [orjson.loads(text)["topic"] for text in reply["outputs"][0]["data"]] == [
        "noise",
        "road",
    ]
    from tritonclient.grpc import InferInput, service_pb2
    from tritonclient.grpc._utils import _get_inference_request

    from citybrain.serving.protocols import grpc

    tensor = InferInput("input", [2], "BYTES")
    tensor.set_data_from_numpy(np.array(list(texts), dtype=object))
    request = _get_inference_request("pipe", [tensor], "", "", None, 0, False, False, 0, None, None)
    message = city.ask_all([Call("grpc", request.SerializeToString(), -1, "", "")])[0].reply.body
    assert service_pb2.ModelInferResponse.FromString(message).outputs[0].name == "output"
    assert grpc is not None
    assert oip is not None


@pytest.mark.parametrize(
    ("plan", "error", "says"),
    [
        ({"name": "one", "algorithm": "broken"}, InvalidInput, r"Step one \(broken\): it is too long"),
        ({"name": "one", "algorithm": "topic@9"}, VersionNotFound, "Step one"),
        ({"name": "one", "algorithm": "topic", "input": {"text": "$input.words"}}, PipelineFailed,
         "refers to .input.words"),
        ({"name": "one", "ensemble": {"combine": "mean", "members": [
            {"algorithm": "level"}, {"value": [1]}]}}, PipelineFailed, "differ|numbers|has not"),
    ],
)  # fmt: skip
def test_an_error_says_which_step_and_the_call_is_settled_once(city, plan, error, says):
    city.pipe({"steps": [plan]})
    if error is PipelineFailed and "ensemble" in plan:
        plan["ensemble"]["members"][1] = {"value": {"level": "high"}}
        city.pipe({"steps": [plan]}, "pipe", grant=False)
    with pytest.raises(error, match=says):
        city.ask([{"text": "loud"}])
    assert [line[9] != 200 for line in city.settled() if line[5] == "pipe"] == [True]


def test_an_item_of_another_form_is_refused_before_any_step(city):
    city.pipe(TRIAGE)
    with pytest.raises(InvalidInput, match="the fields text"):
        city.ask([{"text": "loud"}, {"words": "loud"}])
    assert not city.calls


def test_who_may_call_the_pipeline_needs_no_grant_for_its_steps_but_its_owner_does(city):
    city.pipe(TRIAGE)
    assert city.results([{"text": "hole"}])
    city.pipe({"steps": [{"name": "kind", "algorithm": "topic"}]}, "foreign", owner="tourism")
    with pytest.raises(NotGranted, match="tourism, which owns this pipeline"):
        city.ask([{"text": "hole"}], "foreign")
    city.people.add_grant(NewGrant(department="tourism", algorithm="topic"), ADMIN)
    assert city.results([{"text": "hole"}], "foreign")


def test_pipelines_call_pipelines_but_not_without_end(city):
    city.pipe(TRIAGE)
    city.pipe({"steps": [{"name": "inner", "algorithm": "pipe"}]}, "outer")
    assert city.results([{"text": "hole"}], "outer")[0]["topic"] == "road"
    city.pipe({"steps": [{"name": "again", "algorithm": "loop"}]}, "loop")
    with pytest.raises(PipelineFailed, match="deep"):
        city.ask([{"text": "hole"}], "loop")


def test_the_callers_time_is_that_of_the_whole(city):
    city.pipe(TRIAGE)
    city.pause = 0.2
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        city.ask([{"text": "loud"}], patience=0.3)
    assert time.monotonic() - began < 2
    assert [line[9] for line in city.settled() if line[5] == "pipe"] == [504]


def test_a_pipeline_is_rolled_out_like_any_version(city):
    city.pipe({"steps": [{"name": "bad", "algorithm": "topic", "input": {"text": "$input.none"}}]})
    city.pipe(TRIAGE, grant=False, target="stable", version=2)
    Traffics(city.database).put("pipe", NewTraffic(fallback=["stable"]), ADMIN)
    answered = city.ask([{"text": "loud"}])
    assert answered.instead == "champion"
    assert orjson.loads(answered.reply.body)["version"] == 2
    assert [line[9] for line in city.settled() if line[5] == "pipe"] == [200]
    assert issubclass(PipelineFailed, ModelFailed)


def test_a_pipeline_is_no_shadow_and_nobody_is_called_for_it(city):
    city.pipe(TRIAGE, "topic", grant=True, target="next", version=2)
    plan = NewTraffic(shadow="next", shadow_percent=100)
    Traffics(city.database).put("topic", plan, ADMIN)
    city.ask([{"text": "loud"}], "topic")
    assert city.calls == {"topic": 1}
    assert len(city.settled()) == 1


def test_a_step_that_names_no_version_is_drawn_by_a_split_and_another_is_not(city):
    city.run("topic", MANIFEST | {"name": "topic", "owner": "traffic"}, "2", 2)
    split = [{"target": "2", "percent": 100}]
    Traffics(city.database).put("topic", NewTraffic(split=split), ADMIN)
    steps = [{"name": n, "algorithm": a, "input": "$input"}
             for n, a in (("any", "topic"), ("that", "topic@2"))]  # fmt: skip
    city.pipe({"steps": steps})
    city.ask([{"text": "loud"}])
    lines = [Settled(*line[1:]) for line in city.settled()]
    assert sorted((r.algorithm, r.version, r.drawn, r.drawn_status) for r in lines) == [
        ("pipe", 1, 0, 0), ("topic", 2, 0, 0), ("topic", 2, 2, 200),
    ]  # fmt: skip


def test_many_callers_at_once_get_their_own_answers(city):
    city.pipe(TRIAGE)
    calls = [
        Call("task", orjson.dumps({"inputs": [{"text": f"{'loud ' * (n % 2)}{n}"}]}), -1, "", "")
        for n in range(400)
    ]
    for number, answered in enumerate(city.ask_all(calls)):
        (result,) = orjson.loads(answered.reply.body)["results"]
        assert result["was"] == f"{'loud ' * (number % 2)}{number}"
        assert result["topic"] == ("noise" if number % 2 else "road")


def test_a_plan_that_was_kept_is_the_plan_that_is_read(city):
    assert pipeline_in(TRIAGE).model_dump(mode="json", exclude_unset=True) == TRIAGE
