"""The gateway's way to the replicas: a lane, or a Ray Serve handle where there is none.

Handles are found again after a restart of Ray.
Ray is reached on a thread of its own, because connecting blocks for seconds; calls themselves are
awaited on the gateway's loop.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from citybrain.core.errors import ModelFailed, NotReady
from citybrain.serving.gateway.endings import as_reply, failed
from citybrain.serving.gateway.lane_end import Lane
from citybrain.serving.gateway.lanes import Lanes
from citybrain.serving.gateway.snapshot import Route
from citybrain.serving.shared import SHARED
from citybrain.serving.watchdog import Watchdog
from citybrain.serving.wire import Call, Departure, FrameLost, Reply, Served, node

log = logging.getLogger(__name__)
CONNECT_SECONDS = 90.0
FIRST_SECONDS = 15.0
"""How long a call waits for a gateway that has just started and did not reach Ray yet."""
LOOK_SECONDS = 0.2
LANE_SECONDS = 15.0
"""How long a frame that was lost waits for a replica that comes in the place of the one that ended."""
KNOCK_SECONDS = 60.0
"""How long a replica is asked to wake for nobody."""
PAUSE_SECONDS = 0.1
MOST_LOSSES = 5
"""How often a frame goes again that others' frames took a replica from."""


class HeadLost(Exception):
    """Ray's head ended under a call; what was asked of it gets no answer any more."""


def ray_address(run: Path) -> str:
    """Address and start number of the head that runs now, as the supervisor wrote it."""
    try:
        return str(json.loads((run / "ray.json").read_text())["address"])
    except (OSError, ValueError, KeyError):
        return ""


class ServeLink:
    """Sends frames to deployments; sends one again when a replica dies under it."""

    def __init__(self, run: Path, lanes: Lanes) -> None:
        self._run = run
        self._lanes = lanes
        self._address = ""
        self._handles: dict[str, Any] = {}
        self._stop = threading.Event()
        self._reached = threading.Event()
        self._lock = threading.Lock()
        self._knocks: dict[str, asyncio.Task[Served]] = {}
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

    def launch(self, route: Route, calls: list[Call]) -> asyncio.Future[Served] | None:
        """One frame over a lane, or None where none is open; FrameLost if it breaks."""
        lane = self._lanes.idlest(route.app)
        return lane.send(calls) if lane else None

    async def send(self, route: Route, calls: list[Call], *, lost: bool = False) -> Served:
        """One frame to the deployment of this route; `lost`: it was lost with a replica already.

        Inference changes nothing, so a frame that a replica took with it goes again, once. If the
        next one ends while it works on that frame, its calls go one by one: so only the call that
        ends replicas fails, and its neighbours get their answers.
        """
        try:
            return await self._again(route, calls) if lost else await self._first(route, calls)
        except FrameLost:
            if len(calls) == 1:
                return Served([_ends_replicas(route)])
        alone = [await self._alone(route, call) for call in calls]
        replies = [reply for served in alone for reply in served.replies]
        waited, worked = sum(s.waited for s in alone), sum(s.worked for s in alone)
        return Served(replies, waited, worked, sum(s.modelled for s in alone))

    async def _alone(self, route: Route, call: Call) -> Served:
        # The replies of one frame name one lane, and these may come by several: each comes whole.
        try:
            return await self._again(route, [call._replace(parts=False)])
        except FrameLost:
            return Served([_ends_replicas(route)])
        except NotReady as error:
            return failed(error, 1)

    async def _first(self, route: Route, calls: list[Call]) -> Served:
        try:
            lane = self._lanes.idlest(route.app)
            return await (lane.send(calls) if lane else self._by_handle(route, calls))
        except FrameLost:
            return await self._again(route, calls)

    async def _again(self, route: Route, calls: list[Call]) -> Served:
        """A frame that was lost; FrameLost if it is once more, because of it as far as can be told."""
        for _ in range(MOST_LOSSES):
            # Not by handle, if a lane comes again: only a lane tells whose frame a replica died of.
            lane = await self._lane(route)
            try:
                if lane is not None:
                    return await lane.send(calls, again=True)
                return await self._by_handle(route, calls)
            except FrameLost as error:
                if error.begun:
                    raise
                if lane is None:
                    break
        raise _lost_its_replica(route)

    async def _lane(self, route: Route) -> Lane | None:
        """A lane, as soon as one is there; None if none comes."""
        until = time.monotonic() + LANE_SECONDS
        while (lane := self._lanes.idlest(route.app)) is None and time.monotonic() < until:
            if not self.connected:
                raise _lost_its_replica(route)
            await asyncio.sleep(PAUSE_SECONDS)
        return lane

    async def _by_handle(self, route: Route, calls: list[Call]) -> Served:
        try:
            return await self._handed_over(route, calls)
        except asyncio.CancelledError:
            self._knock(route)
            raise

    def _knock(self, route: Route) -> None:
        """Ask for nothing, and wait for it: who gave up before a replica woke, wakes it for the next."""
        if route.app in self._knocks:
            return

        def over(task: asyncio.Task[Served]) -> None:
            del self._knocks[route.app]
            if not task.cancelled():
                task.exception()  # why it did not wake is told to those who wait

        work = asyncio.wait_for(self._handed_over(route, []), KNOCK_SECONDS)
        task = asyncio.get_running_loop().create_task(work)
        self._knocks[route.app] = task
        task.add_done_callback(over)

    async def _handed_over(self, route: Route, calls: list[Call]) -> Served:
        # An application of several algorithms is told whose calls these are.
        app, whose = (SHARED, (route.app,)) if route.shared else (route.app, ())
        if not self._address:
            await asyncio.to_thread(self._reached.wait, FIRST_SECONDS)
        # There is no lane to ask for the next part on, so the answer comes whole.
        calls = [call._replace(parts=False) if call.parts else call for call in calls]
        try:
            if not await self._head_lives(self._address):
                raise HeadLost  # at once: who waited for the next head would wait for seconds
            handle = self._handles.get(app) or await self._while_head_lives(
                asyncio.to_thread(self._find, app)
            )
            left = Departure(time.perf_counter(), node())
            served: Served = await self._while_head_lives(handle.frame.remote(calls, *whose, left))
        except NotReady:
            raise
        except Exception as error:
            self._handles.pop(app, None)
            log.warning("%s: %s", route.app, type(error).__name__)
            if isinstance(error, HeadLost) or not self.connected:
                raise _lost_its_replica(route) from error
            raise FrameLost(type(error).__name__) from error
        return served

    async def _while_head_lives(self, work: Awaitable[Any]) -> Any:
        """Its result, or HeadLost: Ray's client waits without limit for a head that is gone."""
        address = self._address
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=LOOK_SECONDS)
                if not task.done() and not await self._head_lives(address):
                    raise HeadLost
            return task.result()
        finally:
            task.cancel()

    async def _head_lives(self, address: str) -> bool:
        """Whether this head is the one that runs now: it takes a connection."""
        if ray_address(self._run) != address:
            return False
        host, _, port = address.partition("#")[0].partition(":")
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except (OSError, ValueError):
            return False
        writer.close()
        return True

    def _find(self, app: str) -> Any:
        from ray import serve

        try:
            with self._lock:
                if not self.connected:
                    raise HeadLost
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
        # Who holds the lock for longer waits for the old head, which comes back no more.
        held = self._lock.acquire(timeout=5)
        try:
            self._handles.clear()
            connect_ray(address)
            self._address = address
            self._reached.set()
        finally:
            if held:
                self._lock.release()


def _lost_its_replica(route: Route) -> NotReady:
    return NotReady(
        f"{route.algorithm} lost its replica.",
        hint="It is being started again; repeat the call in a few seconds.",
    )


def _ends_replicas(route: Route) -> Reply:
    return as_reply(
        ModelFailed(
            f"{route.algorithm} ended twice while it worked on this call.",
            hint=f"Its developers see why with: citybrain logs {route.algorithm}",
        )
    )


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
