"""Make what runs equal to what should run, again and again, after any crash too."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from pathlib import Path

from citybrain.core.errors import CityBrainError, DigestMismatch, NotReady, SignatureWrong
from citybrain.core.names import Ref
from citybrain.core.schemas import Deployment
from citybrain.registry.catalogue import Catalogue
from citybrain.serving.cluster import AppStatus, ServeCluster
from citybrain.serving.gateway.serve_link import Watchdog
from citybrain.serving.replica import ReplicaSpec
from citybrain.storage.records.deployments import Deployments

log = logging.getLogger(__name__)
PAUSE = 0.5
CALM = 2.0
"""Seconds between looks while something is under way or was asked for, and while nothing is."""
STEP_SECONDS = 45.0
REFUSED = re.compile(r"\b(DigestMismatch|SignatureWrong)\b")
"""A replica that would not load, or go on with, files that nobody vouches for."""
LINGER = 3.0
"""Seconds that an old version keeps running after the switch, until every gateway has seen it."""


def app_name(deployment: Deployment, version: int) -> str:
    """The Serve application of a deployment's version; a new version is a new application."""
    return f"{deployment.algorithm}.{deployment.target}.v{version}"


class Reconciler:
    """One thread in the control process."""

    def __init__(
        self, deployments: Deployments, catalogue: Catalogue, cluster: ServeCluster, lanes: Path
    ) -> None:
        self._deployments = deployments
        self._catalogue = catalogue
        self._cluster = cluster
        self._lanes = str(lanes)
        self._stop = threading.Event()
        self._unused_since: dict[str, float] = {}
        self._replicas: dict[str, int] = {}
        self._stuck = Watchdog("the reconciler")
        self.connected = False

    def start(self) -> None:
        """Begin to work."""
        threading.Thread(target=self._work, name="reconciler", daemon=True).start()
        self._stuck.start()

    def close(self) -> None:
        """Stop working; what runs keeps running."""
        self._stop.set()

    def _work(self) -> None:
        asked, calm, looked = -1, False, 0.0
        while not self._stop.wait(PAUSE):
            try:
                wanted = self._deployments.revision()
                if calm and wanted == asked and time.monotonic() - looked < CALM:
                    continue
                asked, looked = wanted, time.monotonic()
                with self._stuck.allow(STEP_SECONDS):
                    self._cluster.connect()
                    calm = self.step()
                self.connected = True
            except NotReady:
                self.connected = False
            except Exception as error:
                self.connected = False
                self._cluster.lost()
                log.warning("reconciling failed, will repeat: %s", type(error).__name__)
                log.debug("reason", exc_info=True)
                self._stop.wait(1.0)

    def step(self) -> bool:
        """One look at both sides, and what follows from it; whether all is as it should be."""
        status = self._cluster.status()
        needed: set[str] = set()
        for deployment in self._deployments.all():
            if deployment.state == "removing":
                continue
            try:
                needed |= self._one(deployment, status)
            except CityBrainError as error:
                self._deployments.saw(
                    deployment.algorithm, deployment.target, state="failed", message=str(error),
                    version=self._version(deployment),
                    refused=isinstance(error, DigestMismatch | SignatureWrong),
                )  # fmt: skip
                needed.add(deployment.running.get("app", ""))
        self._remove(status, needed)
        settled = all(d.state in ("running", "failed") for d in self._deployments.all())
        return settled and status.keys() <= needed

    def _version(self, deployment: Deployment) -> int:
        """The version that a deployment would run, as far as it can be told."""
        with contextlib.suppress(CityBrainError):
            return self._catalogue.pointed(Ref(deployment.algorithm, deployment.target))
        return 0

    def _one(self, deployment: Deployment, status: dict[str, AppStatus]) -> set[str]:
        """Bring one deployment forward; returns the applications that it needs."""
        name, target = deployment.algorithm, deployment.target
        running = deployment.running.get("app", "")
        if running and running not in status:  # Ray was restarted; nothing answers there
            self._deployments.saw(name, target, state="starting", running={})
            running = ""
        version = self._catalogue.pointed(Ref(name, target))
        app = app_name(deployment, version)
        seen = status.get(app)
        again = deployment.state == "waiting" and seen is not None and (
            seen.state == "failed" or self._replicas.get(app, 0) not in (0, deployment.replicas)
        )  # fmt: skip
        if seen is None or again:
            folder, digest = self._catalogue.folder(name, version)
            spec = ReplicaSpec(
                str(folder), digest, version, threads=1, lanes=self._lanes, app=app,
                statement=self._catalogue.statement(name, version),
                signers=self._catalogue.signers.trusted(),
            )  # fmt: skip
            self._deployments.saw(name, target, state="starting", version=version)
            self._cluster.start(spec, deployment.replicas)
            self._replicas[app] = deployment.replicas
        elif seen.state == "running" and not REFUSED.search(seen.message):
            current = {
                "app": app, "version": version,
                "manifest": self._catalogue.manifest(name, version).model_dump(mode="json"),
            } if running != app else None  # fmt: skip
            self._deployments.saw(name, target, state="running", version=version, running=current)
            return {app}
        elif seen.state in ("failed", "running"):
            self._deployments.saw(
                name, target, state="failed", message=plain_reason(seen.message), version=version,
                refused=REFUSED.search(seen.message) is not None,
            )  # fmt: skip
        return {app, running}

    def _remove(self, status: dict[str, AppStatus], needed: set[str]) -> None:
        moment = time.monotonic()
        for app, seen in status.items():
            if app in needed or seen.state == "deleting":
                self._unused_since.pop(app, None)
            elif moment - self._unused_since.setdefault(app, moment) > LINGER:
                self._cluster.delete(app)
        for deployment in self._deployments.all():
            if deployment.state == "removing":
                self._deployments.forget(deployment.algorithm, deployment.target)


def plain_reason(message: str) -> str:
    """The last error line of a Serve message, then the message itself."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", message)
    lines = [line.strip() for line in plain.splitlines()]
    errors = [
        line
        for line in lines
        if re.match(r"[\w.]*(Error|Package|Data|Mismatch|Library)\b.*:", line)
    ]
    return f"{errors[-1]}\n{plain}" if errors else plain
