"""A gateway process: the public HTTP and gRPC ports, shared with its siblings by SO_REUSEPORT."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from typing import Any

import uvicorn
import uvloop

from citybrain.core.home import Home
from citybrain.core.settings import Settings
from citybrain.feature_store.store import FeatureStore
from citybrain.platform.logs import log_to
from citybrain.platform.wiring import open_database
from citybrain.serving.gateway.asgi import Application
from citybrain.serving.gateway.directory import Directory
from citybrain.serving.gateway.forward import Forwarder
from citybrain.serving.gateway.gateway import Gateway
from citybrain.serving.gateway.grpc_door import grpc_server
from citybrain.serving.gateway.lanes import Lanes
from citybrain.serving.gateway.serve_link import ServeLink
from citybrain.storage.journal import JournalWriter

log = logging.getLogger(__name__)


def public_socket(host: str, port: int) -> socket.socket:
    """A listening socket that several processes may hold."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    found.bind((host, port))
    found.listen(2048)
    found.setblocking(False)
    return found


async def serve(settings: Settings) -> None:
    """Open both doors and answer until a signal comes."""
    home = Home(settings.home)
    directory = Directory(
        open_database(settings, home), home.pepper.read_bytes(), refresh=settings.serving.refresh
    )
    directory.start()
    lanes = Lanes(home.lanes)
    link = ServeLink(home.run, lanes)
    link.start()
    journal = JournalWriter(home.journal)
    features = FeatureStore(home.root)

    async def histories(service: str, entities: list[str]) -> list[Any]:
        return list(await asyncio.to_thread(features.history, service, entities))

    gateway = Gateway(directory, journal, link.send, histories, settings.serving)
    forward = Forwarder(home.control_socket)
    app = Application(gateway, forward, settings.serving)
    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", lifespan="off", access_log=False, log_config=None,
        server_header=False, proxy_headers=False, date_header=False, timeout_keep_alive=30,
        timeout_graceful_shutdown=20, backlog=2048, ws="none",
    )  # fmt: skip
    server = uvicorn.Server(config)
    doors = grpc_server(gateway, settings.serving, f"{settings.host}:{settings.grpc_port}")
    await doors.start()
    timers = [asyncio.create_task(gateway.keep_journal()), asyncio.create_task(lanes.keep())]
    gc.collect()
    gc.freeze()  # what lives now lives for ever: keep the collector from walking it
    try:
        await server.serve(sockets=[public_socket(settings.host, settings.port)])
    finally:
        await doors.stop(grace=5)
        for timer in timers:
            timer.cancel()
        directory.close()
        link.close()
        journal.close()
        await forward.close()


def main() -> None:
    """Run one gateway of a home until it is told to end."""
    settings = Settings()
    log_to(settings.home / "logs" / "gateway.log")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in a terminal is the supervisor's
    uvloop.run(serve(settings))


if __name__ == "__main__":
    main()
