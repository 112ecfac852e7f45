"""A gateway over a database of its own, with one deployment that echoes: doors without processes."""

import asyncio
from datetime import timedelta

import orjson

from citybrain.core.keys import key_digest, new_key
from citybrain.core.schemas import Actor, NewDepartment, NewGrant, NewKey
from citybrain.core.settings import ServingSettings
from citybrain.platform.policy import allows
from citybrain.serving.gateway.asgi import Application
from citybrain.serving.gateway.directory import Directory
from citybrain.serving.gateway.dispatch import Dispatch
from citybrain.serving.gateway.gateway import Gateway
from citybrain.serving.gateway.stops import Stops
from citybrain.serving.wire import Reply, Served
from citybrain.storage.database import Database
from citybrain.storage.journal import JournalWriter
from citybrain.storage.moments import now
from citybrain.storage.records.deployments import Deployments
from citybrain.storage.records.endings import Endings
from citybrain.storage.records.history import History
from citybrain.storage.records.people import People
from citybrain.storage.tables import AlgorithmRow

ADMIN = Actor(key="k1", department="platform", role="admin")
MANIFEST = {
    "name": "flow", "title": {"zh": "车流", "en": "Flow"}, "task": "text-classification",
    "runtime": "onnx", "weights": "model.onnx", "domain": "traffic", "owner": "traffic",
    "licence": "Apache-2.0", "options": {"labels": ["a", "b"]},
}  # fmt: skip


PATH = "/v2/models/flow/infer"
APP = "flow.champion.v2"


async def echo(route, calls):
    return Served([Reply(b"{}", -1, 1, "", "") for _ in calls])


class Door:
    """A gateway over a database, with one deployment of version 2 that echoes."""

    def __init__(self, folder):
        self.database = Database.at(folder / "platform.db")
        self.database.migrate()
        self.people, self.endings = People(self.database), Endings(self.database)
        self.deployments, self.history = Deployments(self.database), History(self.database)
        with self.database.write() as session:
            session.add(
                AlgorithmRow(name="flow", owner="traffic", approval="self", created_at=now())
            )
        self.key = self.issue("health")
        self.stranger = self.issue("tourism")
        self.people.add_grant(NewGrant(department="health", algorithm="flow"), ADMIN)
        self.deployments.want("flow", "champion", 1, ADMIN)
        running = {"app": APP, "version": 2, "manifest": MANIFEST}
        self.deployments.saw("flow", "champion", state="running", version=2, running=running)
        self.directory = Directory(self.database, b"pepper", allows, refresh=60)
        journal = folder / "journal"
        journal.mkdir()
        self.journal = JournalWriter(journal)

    def issue(self, department):
        self.people.add_department(NewDepartment(name=department), ADMIN)
        key_id, secret = new_key("emb")
        self.people.add_key(
            NewKey(department=department), key_id, key_digest(b"pepper", secret), ADMIN
        )
        return secret

    def retire(self, version=0, days=30, replacement=""):
        sunset = now() + timedelta(days=days)
        return self.endings.retire("flow", version, sunset, replacement, ADMIN)

    def gateway(self, send=echo, spool=None, **more):
        self.directory.load()
        dispatch = Dispatch(
            self.journal, send, ServingSettings(), lambda _: 1,
            sample=spool.sampler(self.directory) if spool else None,
        )  # fmt: skip
        stops = Stops(self.directory, dispatch, None, None)
        return Gateway(self.directory, dispatch, stops, **more)

    def ask(self, method, path, key=None, body=b'{"inputs": []}', sent_headers=(), **more):
        """Status, headers and body of one request to a gateway with these parts."""
        sent = []

        async def go():
            app = Application(self.gateway(**more), None, ServingSettings())
            headers = [(b"authorization", f"Bearer {key or self.key}".encode()), *sent_headers]

            async def receive():
                return {"type": "http.request", "body": body}

            async def send(message):
                sent.append(message)

            scope = {"type": "http", "method": method, "path": path, "headers": headers}
            await app(scope, receive, send)
            await asyncio.sleep(0.05 if more else 0)  # what happens after the answer

        asyncio.run(go())
        return sent[0]["status"], dict(sent[0]["headers"]), orjson.loads(sent[1]["body"])
