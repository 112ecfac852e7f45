"""A gateway behind a real port, for tests over raw sockets; the model is a function of the test."""

import asyncio
import contextlib
import socket
import threading
import time

import uvicorn
import uvloop
from support_door import APP, PATH, Door

from citybrain.core.settings import ServingSettings
from citybrain.serving.gateway.asgi import Application
from citybrain.serving.gateway.dispatch import Dispatch
from citybrain.serving.gateway.gateway import Gateway
from citybrain.serving.gateway.guard import keep_clients
from citybrain.serving.gateway.http_door import http_door
from citybrain.serving.gateway.lanes import Lanes
from citybrain.serving.gateway.stops import Stops
from citybrain.serving.wire import Reply, Served
from citybrain.storage.journal import read_from


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
        self.dispatch = dispatch = Dispatch(
            self.journal, self.send, self.settings, lambda _: 1, self.launch
        )
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
        bearer = f"Bearer {self.key if key is None else key}"
        headers = {"authorization": bearer, "content-length": str(len(body))} | {
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
    """What comes back for pieces that are sent on a connection of their own."""
    with site.connect() as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)
        return answers(connection, count)
