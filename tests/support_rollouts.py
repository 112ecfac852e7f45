"""A gateway over a database, with two versions that answer as a test says, and a plan between them."""

import asyncio
from collections import Counter
from zoneinfo import ZoneInfo

import orjson
from support_door import ADMIN, MANIFEST, Door

from citybrain.core.names import parse_ref
from citybrain.core.settings import ServingSettings
from citybrain.serving.gateway.dispatch import Dispatch
from citybrain.serving.gateway.gateway import Asked, Gateway
from citybrain.serving.gateway.stops import Stops
from citybrain.serving.rollout.canary import Rollouts
from citybrain.serving.rollout.judge import judge
from citybrain.serving.rollout.shadow import ShadowBook
from citybrain.serving.wire import Call, Reply, Served, error_reply
from citybrain.storage.journal import read_from
from citybrain.storage.records.draws import Draws
from citybrain.storage.records.traffic import Traffics
from citybrain.storage.records.usage import Usage


async def failing(calls):
    return Served([error_reply("model_failed", "broken", "")] * len(calls))


async def sleeping(calls):
    await asyncio.sleep(0.3)
    return Served([Reply(b"late", -1, 1, "", "")] * len(calls))


class Catalogue:
    """Knows every algorithm."""

    def algorithm(self, name):
        return self


class City(Door):
    """The same door with two versions, each answering as the test says."""

    def __init__(self, folder):
        super().__init__(folder)
        self.traffics = Traffics(self.database)
        self.usage = Usage(self.database, ZoneInfo("UTC"))
        self.home = folder
        self.deploy("7", 7)
        self.answers = {}
        self.seen = Counter()

    def deploy(self, target, version, *, level="internal", **more):
        self.deployments.want("flow", target, 1, ADMIN)
        running = {"app": f"flow.{target}.v{version}", "version": version,
                   "manifest": MANIFEST | {"level": level}, **more}  # fmt: skip
        self.deployments.saw("flow", target, state="running", version=version, running=running)

    async def send(self, route, calls):
        self.seen[route.target] += len(calls)
        answer = self.answers.get(route.target)
        if callable(answer):
            return await answer(calls)
        body = orjson.dumps({"outputs": answer or [route.version]})
        return Served([Reply(body, -1, 1, "", "") for _ in calls])

    def rollouts(self, arms=None, judge=judge):
        """What people ask of traffic, judged by these arms, or by what really happened."""
        arms = arms or Draws(self.database).arms
        return Rollouts(self.traffics, self.deployments, Catalogue(), arms, judge, patience=30.0)

    def load(self):
        """The journal into the ledger, as the control process does."""
        self.journal.flush()
        self.usage.load(self.home / "journal")

    def call_all(self, count, ref="flow", **more):
        """What each of so many calls came to, at once."""

        async def go():
            self.directory.load()
            dispatch = Dispatch(self.journal, self.send, ServingSettings(), lambda _: 1)
            stops = Stops(self.directory, dispatch, None, ShadowBook(self.home / "shadows"))
            gateway = Gateway(self.directory, dispatch, stops)
            asked = Asked(self.directory.identify(self.key), parse_ref(ref), "test", **more)

            async def one(number):
                call = Call("oip", b"{}", -1, "", gateway.new_request_id())
                return await gateway.infer(asked, call)

            found = await asyncio.gather(*map(one, range(count)), return_exceptions=True)
            await asyncio.gather(*stops._tasks)
            return found

        return asyncio.run(go())

    def settled(self):
        (path,) = (self.home / "journal").iterdir()
        return [line for line in read_from(path, 0)[0] if line[0] == "S"]
