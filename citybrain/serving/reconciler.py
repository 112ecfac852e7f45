"""Make what runs equal to what should run, again and again, after any crash too."""

from __future__ import annotations

import contextlib
import logging
import math
import re
import secrets
import threading
import time
from pathlib import Path
from typing import Any

from citybrain.core.error_marks import marked_in
from citybrain.core.errors import (
    UNTRUSTED,
    CityBrainError,
    NotReady,
    RemoteDown,
)
from citybrain.core.names import Ref
from citybrain.core.schemas import Deployment, Scaling
from citybrain.core.signatures import SOURCE, check
from citybrain.models.package import Package
from citybrain.models.pipeline import read_pipeline
from citybrain.models.runtime import RUNTIMES
from citybrain.registry.catalogue import Catalogue
from citybrain.registry.forms import Forms, Served
from citybrain.serving.app_status import AppStatus
from citybrain.serving.cluster import ServeCluster
from citybrain.serving.replica import ReplicaSpec
from citybrain.serving.resources import Capacity, refuse_replicas, refuse_resources, refuse_sharing
from citybrain.serving.shared import SHARED
from citybrain.serving.watchdog import Watchdog
from citybrain.storage.records.deployments import Deployments

log = logging.getLogger(__name__)
PAUSE = 0.5
CALM = 2.0
"""Seconds between looks while something is under way or was asked for, and while nothing is."""
STEP_SECONDS = 45.0
LINGER = 3.0
"""Seconds that an old version keeps running after the switch, until every gateway has seen it."""
COUNT_SECONDS = 10.0
"""Seconds between looks at what machines Ray has."""
RETRY_SECONDS = 15.0
"""Seconds between starts of a replica that fails because a remote model's server is silent."""
SCARCE = "to be scheduled"
"""What Serve says of a replica that Ray has no room for."""
NO_ROOM = "It waits for CPUs or GPUs that others have now.\n"


def app_name(deployment: Deployment, version: int, form: str = SOURCE) -> str:
    """The application of a deployment's version; a new version, form or place is a new one."""
    parts = [deployment.algorithm, deployment.target, f"v{version}"]
    cpus, gpus = deployment.cpus, deployment.gpus
    parts += [form] * (form != SOURCE) + [f"c{cpus}"] * (cpus > 1)
    parts += [f"g{gpus:g}".replace(".", "_")] * (gpus > 0)
    return ".".join(parts + [SHARED] * deployment.shared)


class Reconciler:
    """One thread in the control process."""

    def __init__(
        self, deployments: Deployments, catalogue: Catalogue, forms: Forms,
        cluster: ServeCluster, lanes: Path, *, verify: float,
        environment: dict[str, str],
    ) -> None:  # fmt: skip
        self._deployments = deployments
        self._catalogue = catalogue
        self._forms = forms
        self._cluster = cluster
        self._lanes = str(lanes)
        self._verify = verify
        self._environment = environment
        self._stop = threading.Event()
        self._unused_since: dict[str, float] = {}
        self._asked: dict[str, tuple[int, Scaling | None]] = {}
        self._status: dict[str, AppStatus] = {}
        self._roused: set[str] = set()
        self._tried: dict[str, float] = {}
        self._counted_at = -math.inf
        self._stuck = Watchdog("the reconciler")
        self.connected = False
        self.capacity: Capacity | None = None
        """What Ray may give to replicas, as far as it is known."""

    def start(self) -> None:
        """Begin to work."""
        threading.Thread(target=self._work, name="reconciler", daemon=True).start()
        self._stuck.start()

    def close(self) -> None:
        """Stop working; what runs keeps running."""
        self._stop.set()

    def rouse(self, app: str) -> None:
        """Somebody waits for this application, who cannot call it by handle: wake it."""
        self._roused.add(app)

    def deployments(self) -> list[Deployment]:
        """What should run, with how many replicas answer at the moment."""
        return [self._counted(found) for found in self._deployments.all()]

    def deployment(self, algorithm: str, target: str) -> Deployment:
        """One of them, or RowNotFound."""
        return self._counted(self._deployments.get(algorithm, target))

    def shared_bytes(self) -> dict[tuple[str, str], int]:
        """What models in the shared replica take in memory, by algorithm and target."""
        taken = self._cluster.shared_bytes()
        return {
            (found.algorithm, found.target): taken[app]
            for found in self._deployments.all()
            if (app := found.running.get("app", "")) in taken
        }

    def _counted(self, deployment: Deployment) -> Deployment:
        seen = self._status.get(deployment.running.get("app", ""))
        if seen is None:
            return deployment
        may_sleep = deployment.scaling is not None and deployment.scaling.min_replicas == 0
        asleep = may_sleep and deployment.state == "running" and not seen.in_sight
        return deployment.model_copy(update={"running_replicas": seen.replicas, "asleep": asleep})

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
        status = self._status = self._cluster.status()
        if (moment := time.monotonic()) - self._counted_at > COUNT_SECONDS:
            self.capacity, self._counted_at = self._cluster.capacity(), moment
        needed: set[str] = set()
        for deployment in self._deployments.all():
            if deployment.state == "removing":
                continue
            try:
                needed |= self._one(deployment, status)
            except CityBrainError as error:
                self._saw(
                    deployment, state="failed", message=str(error),
                    version=self._version(deployment), refused=isinstance(error, UNTRUSTED),
                )  # fmt: skip
                needed.add(deployment.running.get("app", ""))
        self._remove(status, needed)
        while self._roused:
            app = self._roused.pop()
            if app in needed and app in status and not status[app].replicas:
                self._cluster.wake(app)
        self._cluster.settle()
        settled = all(d.state in ("running", "failed") for d in self._deployments.all())
        return settled and status.keys() <= needed

    def _saw(self, deployment: Deployment, **seen: Any) -> None:
        """Write down what was seen of a deployment, unless another is wanted by now."""
        self._deployments.saw(
            deployment.algorithm, deployment.target, wanted_at=deployment.wanted_at, **seen
        )

    def _version(self, deployment: Deployment) -> int:
        """The version that a deployment would run, as far as it can be told."""
        with contextlib.suppress(CityBrainError):
            return self._catalogue.pointed(Ref(deployment.algorithm, deployment.target))
        return 0

    def _one(self, deployment: Deployment, status: dict[str, AppStatus]) -> set[str]:
        """Bring one deployment forward; returns the applications that it needs."""
        name, target = deployment.algorithm, deployment.target
        running = deployment.running.get("app", "")
        composed = "plan" in deployment.running
        if (
            running and running not in status and not composed
        ):  # Ray was restarted; nothing answers there
            self._saw(deployment, state="starting", running={})
            running = ""
        version = self._catalogue.pointed(Ref(name, target))
        served = self._forms.served(name, version, self._deployments.revision())
        app = app_name(deployment, version, served.form)
        if deployment.shared:
            refuse_sharing(served.manifest)
        refuse_resources(deployment, served.manifest, self.capacity)
        if RUNTIMES.get(served.manifest.runtime).composed:
            if running != app or deployment.state != "running":
                self._compose(deployment, version, served, app)
            return set()
        seen = status.get(app)
        error = marked_in(seen.message) if seen else None
        refused = isinstance(error, UNTRUSTED)
        asked = (deployment.replicas, deployment.scaling)
        waits = deployment.state == "waiting" and seen is not None
        broken = waits and seen is not None and (seen.state == "failed" or refused)
        # What failed for want of another server is tried again until that is back.
        retried = seen is not None and seen.state == "failed" and self._again(app, error)
        broken = broken or retried
        if seen is None or broken or (waits and self._asked.get(app) != asked):
            spec = ReplicaSpec(
                str(served.folder), served.digest, version, threads=deployment.cpus,
                lanes=self._lanes, app=app,
                form=served.form, statement=served.statement, signers=self._catalogue.signers.trusted(),
                verify=self._verify, environment=self._environment, gpus=deployment.gpus,
            )  # fmt: skip
            why = str(error) if retried else ""
            self._saw(deployment, state="starting", version=version, message=why)
            attempt = secrets.token_hex(4) if broken else ""
            if deployment.shared:
                self._cluster.share(spec, attempt)
            else:
                self._cluster.start(spec, *asked, first=seen is None or broken, attempt=attempt)
            self._asked[app] = asked
        elif seen.state == "running" and not refused:
            current = {
                "app": app, "version": version, "form": served.form,
                "manifest": served.manifest.model_dump(mode="json"),
                **({"shared": True} if deployment.shared else {}),
            } if running != app else None  # fmt: skip
            self._saw(
                deployment, state="running", message=seen.note, version=version, running=current
            )
            return {app}
        elif seen.state == "deploying" and SCARCE in seen.message:
            self._saw(deployment, state="starting", version=version, message=NO_ROOM + seen.message)
        elif seen.state in ("failed", "running"):
            # Callers of an application that refuses its files are told so; an older one goes on.
            self._saw(
                deployment, state="failed", version=version, refused=refused,
                message=str(error) if error else plain_reason(seen.message),
                running={} if refused and running == app else None,
            )  # fmt: skip
        return {app, running}

    def _again(self, app: str, error: CityBrainError | None) -> bool:
        moment = time.monotonic()
        if not isinstance(error, RemoteDown):
            return False
        due = moment - self._tried.setdefault(app, moment) > RETRY_SECONDS
        if due:
            self._tried[app] = moment
        return due

    def _compose(self, deployment: Deployment, version: int, served: Served, app: str) -> None:
        """A pipeline runs as soon as gateways know its steps, if somebody vouches for them."""
        name, signers = deployment.algorithm, self._catalogue.signers.trusted()
        if deployment.replicas != 1 or deployment.scaling:
            refuse_replicas(served.manifest)
        check(served.statement, name, version, served.digest, signers)
        package = Package.open(served.folder, digest=served.digest)
        plan = read_pipeline(package.weights)
        for ref in plan.refs():
            self._catalogue.algorithm(ref.algorithm)  # AlgorithmNotFound names what is missing
        current = {
            "app": app, "version": version, "form": served.form,
            "manifest": served.manifest.model_dump(mode="json"),
            "plan": plan.model_dump(mode="json", exclude_unset=True),
        }  # fmt: skip
        self._saw(deployment, state="running", version=version, running=current)

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
    errors = [line for line in lines if re.match(r"[\w.]*Error\b.*:", line)]
    return f"{errors[-1]}\n{plain}" if errors else plain
