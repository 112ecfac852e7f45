"""Ray Serve as the reconciler sees it: start, look at and delete applications."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from citybrain.core.errors import NotReady
from citybrain.core.schemas import Scaling
from citybrain.serving.app_status import AppStatus
from citybrain.serving.gateway.serve_link import connect_ray, ray_address
from citybrain.serving.lane_board import RayBoard
from citybrain.serving.lane_doors import prefix
from citybrain.serving.lane_far import FarLanes
from citybrain.serving.notes import read_notes
from citybrain.serving.replica import ReplicaSpec, as_ray_app
from citybrain.serving.resources import Capacity
from citybrain.serving.shared import SHARED, SharedApps
from citybrain.serving.shared_replica import as_shared_app

log = logging.getLogger(__name__)
WAKE_SECONDS = 60.0


STATES = {
    "NOT_STARTED": "deploying",
    "DEPLOYING": "deploying",
    "RUNNING": "running",
    "UNHEALTHY": "running",
    "DEPLOY_FAILED": "failed",
    "DELETING": "deleting",
}


class ServeCluster:
    """The only Ray driver that deploys."""

    def __init__(self, run: Path, lanes: Path, *, shared_bytes: int) -> None:
        self._run = run
        self._lanes = lanes
        self._shared_bytes = shared_bytes
        self._far = FarLanes(RayBoard(), lanes)
        self._shared = SharedApps(lanes)
        self._shared_state: str | None = None
        self._address = ""
        self._handles: dict[str, Any] = {}
        self._waking: dict[str, Future[None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def connect(self) -> None:
        """Join the head that runs now; NotReady while there is none."""
        address = ray_address(self._run)
        if not address:
            raise NotReady("Ray is being started.")
        if address == self._address:
            return
        from ray import serve

        connect_ray(address)
        # No proxy: calls reach replicas through our gateways, which check keys.
        serve.start(proxy_location="Disabled")
        self._address = address

    def capacity(self) -> Capacity:
        """What the living nodes have."""
        import ray

        return Capacity.of([node["Resources"] for node in ray.nodes() if node["Alive"]])

    def lost(self) -> None:
        """Forget the connection, so that the next step makes a new one."""
        self._handles.clear()
        self._address = ""

    def start(
        self, spec: ReplicaSpec, replicas: int, scaling: Scaling | None, *, first: bool,
        attempt: str = "",
    ) -> None:  # fmt: skip
        """Ask Serve for an application, new or changed; it follows in its own time."""
        _run(spec.app, as_ray_app(spec, replicas, scaling, first=first, attempt=attempt))

    def share(self, spec: ReplicaSpec, attempt: str = "") -> None:
        """Ask for an application in the shared replica, new or changed; `settle` hands it over."""
        self._shared.want(spec, attempt)

    def settle(self) -> None:
        """Hand the list of what shares a replica to Serve, if it changed."""
        from ray import serve

        models = self._shared.news()
        if models is None or self._shared_state == "deleting":
            return
        if models:
            _run(SHARED, as_shared_app(models, self._lanes, self._shared_bytes))
        elif self._shared_state is not None:
            serve.delete(SHARED, _blocking=False)
        self._shared.told(models)

    def shared_bytes(self) -> dict[str, int]:
        """What the models in the shared replica take in memory, by application."""
        return {seen.wanted.spec.app: seen.bytes for seen in self._shared.report()}

    def status(self) -> dict[str, AppStatus]:
        """Every application by name; those in the shared replica each by its own."""
        from ray import serve

        self._far.look()
        found, notes = {}, read_notes(self._lanes)
        for name, app in serve.status().applications.items():
            messages = [d.message for d in app.deployments.values() if d.message]
            message = "\n".join([*messages, app.message] if app.message else messages)
            replicas: Counter[str] = Counter()
            for deployment in app.deployments.values():
                replicas.update(deployment.replica_states)
            state = STATES.get(str(app.status.value), "deploying")
            found[name] = AppStatus(
                state, message, replicas["RUNNING"], replicas.total(), notes.get(prefix(name), "")
            )
        shared = found.pop(SHARED, None)
        self._shared_state = shared.state if shared else None
        return found | self._shared.statuses(shared)

    def wake(self, app: str) -> None:
        """Have a replica started where none runs: Serve does so for whoever calls by handle."""
        if app in self._shared:
            return  # it never sleeps
        if (before := self._waking.get(app)) is not None and not before.done():
            return
        if self._loop is None:  # Serve's router works on the loop of its caller
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="wake", daemon=True).start()
        self._waking[app] = asyncio.run_coroutine_threadsafe(self._call_nothing(app), self._loop)

    async def _call_nothing(self, app: str) -> None:
        from ray import serve

        try:
            if app not in self._handles:
                self._handles[app] = serve.get_app_handle(app)
            async with asyncio.timeout(WAKE_SECONDS):
                await self._handles[app].frame.remote([])
        except Exception as error:
            self._handles.pop(app, None)
            log.warning("%s was not woken: %s", app, type(error).__name__)

    def delete(self, app: str) -> None:
        """Ask for its end; what it is answering is finished first."""
        from ray import serve

        if self._shared.drop(app):
            return
        self._handles.pop(app, None)
        serve.delete(app, _blocking=False)


def _run(app: str, target: Any) -> None:
    from ray import serve
    from ray.serve.api import RunTarget

    serve.run_many(
        [RunTarget(target, name=app, route_prefix=None)],
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )
