"""Who may call what, and where it runs: a table in memory, refreshed when the database changes."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from citybrain.core.errors import (
    AlgorithmNotFound,
    BadKey,
    CityBrainError,
    MissingKey,
    NotDeployed,
    NotGranted,
    NotReady,
    PurposeMissing,
    VersionNotFound,
)
from citybrain.core.keys import is_mistyped, key_digest, read_session
from citybrain.core.names import Ref
from citybrain.core.schemas import Deployment, Key
from citybrain.core.schemas.people import OPERATION, PLATFORM
from citybrain.core.tensors import Signature
from citybrain.models.package import Manifest
from citybrain.models.task import Task, open_task
from citybrain.serving.gateway.notice import Notice
from citybrain.storage.database import Database
from citybrain.storage.moments import now
from citybrain.storage.records.deployments import Deployments
from citybrain.storage.records.endings import Endings
from citybrain.storage.records.history import History
from citybrain.storage.records.people import People

log = logging.getLogger(__name__)
LOOK_AGAIN_SECONDS = 0.1


@dataclass(frozen=True, eq=False)
class Route:
    """A deployment that answers: its Serve application, version and task."""

    algorithm: str
    target: str
    app: str
    version: int
    replicas: int
    manifest: Manifest
    task: Task
    signature: Signature
    feature_service: str
    notice: Notice | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """The notice's headers; none while nothing is retired."""


@dataclass(frozen=True)
class Snapshot:
    """One consistent look at the tables; replaced whole, never changed."""

    revision: int = -1
    keys: dict[str, Key] = field(default_factory=dict)
    by_id: dict[str, Key] = field(default_factory=dict)
    grants: dict[tuple[str, str], dict[str, datetime | None]] = field(default_factory=dict)
    routes: dict[str, list[Route]] = field(default_factory=dict)
    waiting: dict[str, str] = field(default_factory=dict)
    """Deployments that do not answer yet: `algorithm` to its state."""
    known: frozenset[str] = frozenset()
    notices: dict[tuple[str, int], Notice] = field(default_factory=dict)
    """Retirements in force by algorithm and version; version 0: the whole algorithm."""
    ready: bool = False


class Directory:
    """The snapshot and the thread that keeps it fresh."""

    def __init__(self, database: Database, pepper: bytes, *, refresh: float) -> None:
        self._database = database
        self._pepper = pepper
        self._refresh = refresh
        self._people = People(database)
        self._deployments = Deployments(database)
        self._history = History(database)
        self._endings = Endings(database)
        self._opened: dict[tuple[str, str, int, Notice | None], Route] = {}
        self._stop = threading.Event()
        self._looked = 0.0
        self._loading = threading.Lock()
        self.snapshot = Snapshot()

    def start(self) -> None:
        """Load once, then look for changes until `close`."""
        self.load()
        threading.Thread(target=self._watch, name="directory", daemon=True).start()

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()

    def load(self) -> None:
        """Read everything again if something changed."""
        with self._loading:
            self._load()

    def _load(self) -> None:
        revision = self._database.revision()
        moment = now()
        if revision == self.snapshot.revision and not self._expired(moment):
            return
        living = self._people.living_keys(moment)
        grants: dict[tuple[str, str], dict[str, datetime | None]] = {}
        for grant in self._people.grants():
            if grant.revoked_at is None and (grant.until is None or grant.until > moment):
                held = grants.setdefault((grant.department, grant.algorithm), {})
                held[grant.purpose] = grant.until
        routes: dict[str, list[Route]] = {}
        waiting: dict[str, str] = {}
        deployments = self._deployments.all()
        notices = {(r.algorithm, r.version): Notice.of(r) for r in self._endings.retirements()}
        for deployment in deployments:
            if deployment.running:
                routes.setdefault(deployment.algorithm, []).append(self._route(deployment, notices))
            else:
                waiting[deployment.algorithm] = deployment.state
        self.snapshot = Snapshot(
            revision=revision,
            keys=dict(living),
            by_id={key.id: key for _, key in living},
            grants=grants,
            routes=routes,
            waiting=waiting,
            known=frozenset(self._history.algorithms()),
            notices=notices,
            ready=all(d.running or d.state in ("failed", "removing") for d in deployments),
        )

    def _expired(self, moment: datetime) -> bool:
        return any(
            key.expires_at is not None and key.expires_at <= moment
            for key in self.snapshot.by_id.values()
        )

    def _route(self, deployment: Deployment, notices: dict[tuple[str, int], Notice]) -> Route:
        running: dict[str, Any] = deployment.running
        # The version's own notice says more than the algorithm's; the earlier sunset binds.
        algorithm = deployment.algorithm
        both = [notices.get((algorithm, running["version"])), notices.get((algorithm, 0))]
        notice = min((n for n in both if n), key=lambda n: n.sunset, default=None)
        name = (running["app"], deployment.target, deployment.replicas, notice)
        if name not in self._opened:
            manifest = Manifest.model_validate(running["manifest"])
            task = open_task(manifest)
            self._opened[name] = Route(
                algorithm=deployment.algorithm, target=deployment.target, app=running["app"],
                version=running["version"], replicas=deployment.replicas, manifest=manifest,
                task=task, signature=task.signature(),
                feature_service=str(manifest.options.get("feature_service", "")),
                notice=notice, headers=notice.headers if notice else (),
            )  # fmt: skip
        return self._opened[name]

    def _watch(self) -> None:
        while not self._stop.wait(self._refresh):
            try:
                self.load()
            except Exception:  # the last table keeps serving; the next look may succeed
                log.exception("the directory could not be refreshed")

    def identify(self, key: str, session: str = "") -> Key:
        """Who shows this key (or this console session); NotSignedIn otherwise."""
        if key:
            found = self.snapshot.keys.get(key_digest(self._pepper, key))
            if found is None:
                raise BadKey(
                    "This key is not known, or has ended.",
                    hint="It looks mistyped." if is_mistyped(key) else "Ask for a new one.",
                )
            return found
        if session and (key_id := read_session(self._pepper, session)):
            found = self.snapshot.by_id.get(key_id)
            if found is not None:
                return found
            raise BadKey("The key behind this session has ended.", hint="Sign in again.")
        raise MissingKey("This call carries no key.", hint="Send: Authorization: Bearer cb_…")

    def purpose(self, key: Key, algorithm: str, stated: str) -> str:
        """The purpose of a call that this key may make; Refused with the reason otherwise."""
        purpose = stated or (key.purposes[0] if len(key.purposes) == 1 else "")
        if not purpose:
            known = ", ".join(key.purposes)
            raise PurposeMissing(
                "This key serves several purposes, and the call names none.",
                hint=f"Send X-Purpose with one of: {known}.",
            )
        if purpose in key.purposes:
            if key.department == PLATFORM and key.role == "admin" and purpose == OPERATION:
                return purpose
            held = self.snapshot.grants.get((key.department, algorithm), {})
            if purpose in held and ((until := held[purpose]) is None or until > now()):
                return purpose
        raise NotGranted(
            f"{key.department} has no grant for {algorithm[:63]} and the purpose {purpose[:63]!r}.",
            hint="Ask the algorithm's owner or an admin for a grant.",
        )

    def _look_again(self, algorithm: str) -> list[Route] | None:
        """Whoever just saw a deployment start must not be refused for the rest of a refresh."""
        moment = time.monotonic()
        if moment - self._looked > LOOK_AGAIN_SECONDS:
            self._looked = moment
            with contextlib.suppress(Exception):  # the thread that watches reports it
                self.load()
        return self.snapshot.routes.get(algorithm)

    def route(self, ref: Ref) -> Route:
        """The deployment that answers for this reference; Retired after its sunset."""
        route = self._find(ref)
        if route.notice is not None:
            route.notice.check()
        return route

    def notice(self, ref: Ref) -> Notice | None:
        """The notice that an answer about this reference carries, an error too."""
        with contextlib.suppress(CityBrainError):
            return self._find(ref).notice
        whole = self.snapshot.notices.get((ref.algorithm, 0))
        return self.snapshot.notices.get((ref.algorithm, ref.version or 0), whole)

    def _find(self, ref: Ref) -> Route:
        found = self.snapshot.routes.get(ref.algorithm) or self._look_again(ref.algorithm)
        if not found:
            if notice := self.snapshot.notices.get((ref.algorithm, 0)):
                notice.check()
            if state := self.snapshot.waiting.get(ref.algorithm):
                raise NotReady(
                    f"{ref.algorithm} is {state}.",
                    hint=f"See why with: citybrain logs {ref.algorithm}",
                )
            if ref.algorithm in self.snapshot.known:
                raise NotDeployed(
                    f"{ref.algorithm} is registered and not deployed.",
                    hint=f"An admin runs: citybrain deploy {ref.algorithm}",
                )
            raise AlgorithmNotFound(
                f"No algorithm is called {ref.algorithm!r}.",
                hint="List them with: citybrain algorithms",
            )
        if not ref.target:
            return next((route for route in found if route.target == "champion"), found[0])
        for route in found:
            if ref.target == route.target or ref.version == route.version:
                return route
        if notice := self.snapshot.notices.get((ref.algorithm, ref.version or 0)):
            notice.check()
        raise VersionNotFound(
            f"{ref} does not run.",
            hint=f"Running: {', '.join(f'{r.algorithm}@{r.target}' for r in found)}.",
        )
