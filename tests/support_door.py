"""A gateway over a database of its own, with one deployment that echoes: doors without processes."""

import asyncio
import contextlib
import socket
import threading
import time
from datetime import timedelta

import orjson
import uvicorn
import uvloop

from citybrain.core.keys import key_digest, new_key
from citybrain.core.schemas import Actor, NewDepartment, NewGrant, NewKey
from citybrain.core.settings import ServingSettings
from citybrain.platform.policy import allows
from citybrain.serving.gateway.asgi import Application
from citybrain.serving.gateway.directory import Directory
from citybrain.serving.gateway.dispatch import Dispatch
from citybrain.serving.gateway.gateway import Gateway
from citybrain.serving.gateway.guard import keep_clients
from citybrain.serving.gateway.http_door import http_door
from citybrain.serving.gateway.lanes import Lanes
from citybrain.serving.gateway.stops import Stops
from citybrain.serving.wire import Reply, Served
from citybrain.storage.database import Database
from citybrain.storage.journal import JournalWriter, read_from
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


class Site(Door):
    """A gateway behind a real port; what the model answers can be changed.

    Who announces a lane of `APP` in `lane_folder` answers instead.
    """

    def __init__(self, folder):
        super().__init__(folder)
        self.folder = folder
        self.lane_folder = folder / "lanes"
        self.answer = self.echo
        self.short = 0
        self.denials = self.only = None
        self.host = "127.0.0.1"
        self.settings = ServingSettings(slow_client=1.0, max_json=1 << 20)

    async def echo(self, calls):
        return Served([Reply(c.body, -1, 1, "", "") for c in calls])

    async def send(self, _route, calls, **_lost):
        return await self.answer(calls)

    def launch(self, _route, calls):
        lane = self.lanes.idlest(APP)
        return lane.send(calls) if lane else None

    @contextlib.contextmanager
    def open(self):
        self.directory.load()
        self.lanes = Lanes(self.lane_folder)
        dispatch = Dispatch(self.journal, self.send, self.settings, lambda _: 1, self.launch)
        stops = Stops(self.directory, dispatch, None, None)
        gateway = Gateway(self.directory, dispatch, stops, denials=self.denials, only=self.only)
        site, started = self, threading.Event()

        class Counted(http_door(gateway, self.settings)):
            def write_answer(self, *args):
                site.short += 1
                super().write_answer(*args)

        app = Application(gateway, None, self.settings)
        config = uvicorn.Config(
            app, http=Counted, lifespan="off", access_log=False, log_config=None,
            server_header=False, date_header=False, timeout_graceful_shutdown=5,
        )  # fmt: skip
        self.server = uvicorn.Server(config)
        listening = socket.create_server((self.host, 0))
        self.port = listening.getsockname()[1]

        async def serve():
            self.loop = asyncio.get_running_loop()
            timers = [
                asyncio.create_task(keep_clients(self.server.server_state.connections)),
                asyncio.create_task(self.lanes.keep()),
            ]
            started.set()
            await self.server.serve(sockets=[listening])
            for timer in timers:
                timer.cancel()
            await asyncio.gather(*timers, return_exceptions=True)

        thread = threading.Thread(target=lambda: uvloop.run(serve()))
        thread.start()
        started.wait()
        try:
            yield self
        finally:
            self.server.should_exit = True
            thread.join(15)
            assert not thread.is_alive()

    def connect(self):
        found = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return found

    def request(self, body=b'{"inputs":[]}', path=PATH, method="POST", key=None, **headers):
        lines = [f"{method} {path} HTTP/1.1", "host: city"]
        lines.append(f"authorization: Bearer {self.key if key is None else key}")
        headers = {"content-length": str(len(body))} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        lines += [f"{name}: {value}" for name, value in headers.items() if value is not None]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def settled(self):
        (path,) = (self.folder / "journal").iterdir()
        return [line for line in read_from(path, 0)[0] if line[0] == "S"]


def answers(connection, count=1):
    """So many answers as (status, headers, body)."""
    found, reader = [], connection.makefile("rb")
    for _ in range(count):
        status = int(reader.readline().split()[1])
        headers = {}
        while line := reader.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name] = value
        found.append((status, headers, reader.read(int(headers["content-length"]))))
    return found


def ask(site, *pieces, count=1, pause=0.0):
    with site.connect() as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)
        return answers(connection, count)
