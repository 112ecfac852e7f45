"""The gateway's way to the replicas: a lane, or a Ray Serve handle where there is none.

Handles are found again after a restart of Ray.
Ray is reached on a thread of its own, because connecting blocks for seconds; calls themselves are
awaited on the gateway's loop.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from citybrain.core.errors import NotReady
from citybrain.serving.gateway.directory import Route
from citybrain.serving.gateway.lanes import Lanes
from citybrain.serving.wire import Call, Reply

log = logging.getLogger(__name__)
CONNECT_SECONDS = 90.0


def ray_address(run: Path) -> str:
    """Address and start number of the head that runs now, as the supervisor wrote it."""
    try:
        return str(json.loads((run / "ray.json").read_text())["address"])
    except (OSError, ValueError, KeyError):
        return ""


class ServeLink:
    """Sends frames to deployments; retries one elsewhere when a replica dies under it."""

    def __init__(self, run: Path, lanes: Lanes) -> None:
        self._run = run
        self._lanes = lanes
        self._address = ""
        self._handles: dict[str, Any] = {}
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._stuck = Watchdog("the gateway's link to Ray")

    def start(self) -> None:
        """Keep connected to whatever head the supervisor names."""
        threading.Thread(target=self._watch, name="serve-link", daemon=True).start()
        self._stuck.start()

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()

    @property
    def connected(self) -> bool:
        """Whether this process is connected to the head that runs now."""
        return bool(self._address) and self._address == ray_address(self._run)

    async def send(self, route: Route, calls: list[Call]) -> list[Reply]:
        """One frame to the deployment of this route."""
        for attempt in (1, 2, 3):
            lane = self._lanes.idlest(route.app)
            handle: Any = None
            if lane is None:
                handle = self._handles.get(route.app)
                handle = handle or await asyncio.to_thread(self._find, route.app)
            try:
                replies: list[Reply] = await (
                    lane.send(calls) if lane else handle.frame.remote(calls)
                )
                return replies
            except Exception as error:
                # A replica that died took the frame with it. Inference changes nothing, so the
                # same frame may go to another replica; a third death is the caller's to know.
                self._handles.pop(route.app, None)
                if attempt == 3 or not self.connected:
                    log.warning("%s: %s", route.app, type(error).__name__)
                    raise NotReady(
                        f"{route.algorithm} lost its replica.",
                        hint="It is being started again; repeat the call in a few seconds.",
                    ) from error
                await asyncio.sleep(0.1 * attempt)
        raise AssertionError("unreachable")

    def _find(self, app: str) -> Any:
        from ray import serve

        if not self.connected:
            raise NotReady("The compute engine is being started.", hint="Repeat in a few seconds.")
        try:
            with self._lock:
                self._handles[app] = serve.get_app_handle(app)
            return self._handles[app]
        except Exception as error:
            raise NotReady(f"{app} is being started.", hint="Repeat in a few seconds.") from error

    def _watch(self) -> None:
        while not self._stop.is_set():
            address = ray_address(self._run)
            if address and address != self._address:
                try:
                    with self._stuck.allow(CONNECT_SECONDS):
                        self._connect(address)
                except NotReady:
                    pass
                except Exception as error:
                    log.warning("Ray cannot be reached yet: %s", type(error).__name__)
            self._stop.wait(0.3)

    def _connect(self, address: str) -> None:
        with self._lock:
            self._handles.clear()
            connect_ray(address)
            self._address = address


class Watchdog:
    """Ends this process when a call into Ray does not come back; the supervisor starts it again.

    Ray's client waits without limit for a head that is gone, in calls that take no time-out.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._until = math.inf

    def start(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @contextmanager
    def allow(self, seconds: float) -> Iterator[None]:
        """The block inside may take this long."""
        self._until = time.monotonic() + seconds
        try:
            yield
        finally:
            self._until = math.inf

    def _watch(self) -> None:
        while True:
            time.sleep(1.0)
            if time.monotonic() > self._until:
                log.error("%s is stuck; this process ends and is started again", self._what)
                logging.shutdown()
                os._exit(70)  # EX_SOFTWARE; a thread that hangs in C cannot be stopped otherwise


def connect_ray(address: str) -> None:
    """Leave any old cluster and join the one at `host:port#start`; NotReady while it starts."""
    host, _, port = address.partition("#")[0].partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except OSError as error:
        raise NotReady("Ray is being started.") from error
    import ray
    from ray import serve

    serve.context._set_global_client(None)  # noqa: SLF001 - the old cluster's, and it is gone
    ray.shutdown()
    ray.init(
        address=address.partition("#")[0], namespace="citybrain", log_to_driver=False,
        configure_logging=False,
    )  # fmt: skip
