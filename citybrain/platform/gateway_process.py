"""A gateway process: the public HTTP and gRPC ports, shared with its siblings by SO_REUSEPORT."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from citybrain.core.addresses import Proxies
from citybrain.core.home import Home
from citybrain.core.settings import ServingSettings, Settings, tls_of_ray
from citybrain.feature_store.store import FeatureStore
from citybrain.platform.logs import log_to
from citybrain.platform.policy import allows
from citybrain.platform.state import is_stopping, say_ready
from citybrain.platform.wiring import open_database
from citybrain.serving.denials import Denials
from citybrain.serving.gateway.asgi import Application
from citybrain.serving.gateway.closing import DoorServer
from citybrain.serving.gateway.directory import Directory
from citybrain.serving.gateway.dispatch import Dispatch
from citybrain.serving.gateway.forward import Forwarder
from citybrain.serving.gateway.gateway import Gateway
from citybrain.serving.gateway.grpc_door import grpc_server
from citybrain.serving.gateway.guard import keep_clients
from citybrain.serving.gateway.http_door import http_door
from citybrain.serving.gateway.lanes import Lanes
from citybrain.serving.gateway.lengths import LengthBook
from citybrain.serving.gateway.repeats import Repeats
from citybrain.serving.gateway.serve_link import ServeLink
from citybrain.serving.gateway.stops import Stops
from citybrain.serving.gateway.traces import Tracer
from citybrain.serving.metering.book import Book
from citybrain.serving.metering.till import Till
from citybrain.serving.predictions.spool import PredictionSpool
from citybrain.serving.rollout.shadow import ShadowBook
from citybrain.storage.journal import JournalWriter
from citybrain.storage.records.idempotency import Idempotency

log = logging.getLogger(__name__)
FILES = 1024
"""Open files of a gateway that are no HTTP connections: gRPC, lanes, journal, logs."""


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


def within_files(settings: ServingSettings) -> ServingSettings:
    """The settings with no more connections than this process may open files for."""
    wanted, (soft, hard) = (
        settings.max_connections + FILES,
        resource.getrlimit(resource.RLIMIT_NOFILE),
    )
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most == wanted:
        return settings
    found = max(most - FILES, most // 2)
    log.warning("%d connections are taken: the system allows %d open files", found, hard)
    return settings.model_copy(update={"max_connections": found})


async def serve(settings: Settings) -> None:
    """Open both doors and answer until a signal comes."""
    home, serving = Home(settings.home), within_files(settings.serving)
    proxies = Proxies(settings.proxies)
    directory = Directory(
        open_database(settings, home),
        home.pepper.read_bytes(),
        allows,
        refresh=serving.refresh,
        proxies=proxies,
    )
    directory.start()
    lanes = Lanes(home.lanes, tls_of_ray())
    link = ServeLink(home.run, lanes)
    link.start()
    journal = JournalWriter(home.journal)
    features = FeatureStore(home.root)

    async def histories(service: str, entities: list[str]) -> list[Any]:
        return list(await asyncio.to_thread(features.history, service, entities))

    spool = PredictionSpool(home.spool, home.pepper.read_bytes(), settings.predictions)
    spool.start()

    book = Book(home.limits)
    book.enter(home.writers)
    dispatch = Dispatch(
        journal, link.send, serving, lanes.count, link.launch, spool.sampler(directory),
        Till(book, journal),
    )  # fmt: skip
    stops = Stops(directory, dispatch, histories, ShadowBook(home.shadows))
    tracer = Tracer.of(settings.traces)
    repeats = Repeats(Idempotency(directory.database), home.writers, book.holder, settings.serving)
    denials = Denials(home.denials)
    # Without TLS of its own a door beyond loopback is there for the proxies that speak it.
    only = proxies if settings.beyond and not settings.tls else None
    gateway = Gateway(directory, dispatch, stops, tracer, repeats, denials, only)
    forward = Forwarder(home.control_socket, proxies=proxies)
    app = Application(gateway, forward, serving)
    config = uvicorn.Config(
        app, loop="uvloop", http=http_door(gateway, serving), lifespan="off", access_log=False, log_config=None,
        server_header=False, proxy_headers=False, date_header=False, timeout_keep_alive=30,
        backlog=2048, ws="none",
        ssl_certfile=settings.tls_cert if settings.tls else None, ssl_keyfile=settings.tls_key or None,
    )  # fmt: skip
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    pair = (Path(settings.tls_cert), Path(settings.tls_key)) if settings.tls else None
    doors = grpc_server(gateway, serving, f"{host}:{settings.grpc_port}", pair)
    server = DoorServer(config, gateway.closing, serving.drain, doors.stop)
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGTERM, lambda: server.leave(refuse=is_stopping(home))
    )
    await lanes.look()  # whoever calls first shall not have to wait for a handle
    await doors.start()
    timers = [
        asyncio.create_task(dispatch.keep_journal()),
        asyncio.create_task(denials.keep()),
        asyncio.create_task(lanes.keep()),
        asyncio.create_task(LengthBook(home.lengths, dispatch.lengths).keep()),
        asyncio.create_task(keep_clients(server.server_state.connections)),
    ]
    gc.collect()
    gc.freeze()  # what lives now lives for ever: keep the collector from walking it
    listening = public_socket(settings.host, settings.port)
    say_ready(home, os.getpid())
    try:
        await server.serve(sockets=[listening])
    finally:
        await doors.stop(None)
        for timer in timers:
            timer.cancel()
        directory.close()
        link.close()
        dispatch.refusals.write(last=True)
        journal.close()
        denials.close()
        await asyncio.to_thread(spool.close)
        if tracer is not None:
            await asyncio.to_thread(tracer.close)
        await forward.close()


def main() -> None:
    """Run one gateway of a home until it is told to end."""
    settings = Settings()
    log_to(settings.home / "logs" / "gateway.log")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in a terminal is the supervisor's
    uvloop.run(serve(settings))
    logging.shutdown()
    os._exit(0)  # all is closed; Ray's client would wait for a head that may be gone


if __name__ == "__main__":
    main()
