"""Ray Serve as the reconciler sees it: start, look at and delete applications."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from citybrain.core.errors import NotReady
from citybrain.serving.gateway.serve_link import connect_ray, ray_address
from citybrain.serving.replica import ReplicaSpec, as_ray_app

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AppStatus:
    """What Serve says of one application."""

    state: str
    """`deploying`, `running`, `failed` or `deleting`."""
    message: str


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

    def __init__(self, run: Path) -> None:
        self._run = run
        self._address = ""

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

    def lost(self) -> None:
        """Forget the connection, so that the next step makes a new one."""
        self._address = ""

    def start(self, spec: ReplicaSpec, replicas: int) -> None:
        """Ask Serve for an application; it starts in its own time."""
        from ray import serve
        from ray.serve.api import RunTarget

        target = as_ray_app(spec, replicas=replicas)
        serve.run_many(
            [RunTarget(target, name=spec.app, route_prefix=None)],
            wait_for_ingress_deployment_creation=False,
            wait_for_applications_running=False,
        )

    def status(self) -> dict[str, AppStatus]:
        """Every application by name."""
        from ray import serve

        found = {}
        for name, app in serve.status().applications.items():
            messages = [d.message for d in app.deployments.values() if d.message]
            message = "\n".join([*messages, app.message] if app.message else messages)
            found[name] = AppStatus(STATES.get(str(app.status.value), "deploying"), message)
        return found

    def delete(self, app: str) -> None:
        """Ask for its end; what it is answering is finished first."""
        from ray import serve

        serve.delete(app, _blocking=False)
