"""Who may call what, and where it runs: a table in memory, refreshed when the database changes."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import defaultdict
from datetime import datetime
from typing import Any, NoReturn

from citybrain.core.addresses import Proxies, read_networks
from citybrain.core.errors import (
    AlgorithmNotFound,
    CityBrainError,
    NotDeployed,
    NotReady,
    NotSignedIn,
    VersionNotFound,
)
from citybrain.core.levels import Level
from citybrain.core.names import Ref
from citybrain.core.schemas import Deployment, Grant, Key
from citybrain.core.schemas.quotas import Quota
from citybrain.core.schemas.traffic import Traffic
from citybrain.models.package import Manifest
from citybrain.models.pipeline import pipeline_in
from citybrain.models.task import open_task
from citybrain.serving.gateway.callers import Callers
from citybrain.serving.gateway.notice import Notice
from citybrain.serving.gateway.permits import May, Permit, may_compose, permit
from citybrain.serving.gateway.snapshot import Route, Snapshot, levels_of, longer
from citybrain.serving.rollout.traffic import drawn, lot
from citybrain.storage.database import Database
from citybrain.storage.moments import now
from citybrain.storage.records.controls import Controls
from citybrain.storage.records.deployments import Deployments
from citybrain.storage.records.endings import Endings
from citybrain.storage.records.history import History
from citybrain.storage.records.people import People
from citybrain.storage.records.quotas import Quotas
from citybrain.storage.records.samplings import Samplings
from citybrain.storage.records.traffic import Traffics

log = logging.getLogger(__name__)
LOOK_AGAIN_SECONDS = 0.1


class Directory:
    """The snapshot and the thread that keeps it fresh."""

    def __init__(
        self, database: Database, pepper: bytes, may: May, *, refresh: float,
        proxies: Proxies | None = None,
    ) -> None:  # fmt: skip
        self.database = database
        self._may = may
        self._callers = Callers(pepper, proxies or Proxies())
        self._refresh = refresh
        self._people = People(database)
        self._deployments = Deployments(database)
        self._history = History(database)
        self._endings = Endings(database)
        self._traffics = Traffics(database)
        self._samplings = Samplings(database)
        self._quotas = Quotas(database)
        self._controls = Controls(database)
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
        revision = self.database.revision()
        moment = now()
        if revision == self.snapshot.revision and not self._expired(moment):
            return
        living = self._people.living_keys(moment)
        grants: dict[tuple[str, str], dict[str, Grant]] = {}
        for grant in self._people.grants():
            if grant.kind == "algorithm" and grant.revoked_at is None and not (
                grant.until and grant.until <= moment
            ):  # fmt: skip
                held = grants.setdefault((grant.department, grant.algorithm), {})
                held[grant.purpose] = longer(held.get(grant.purpose), grant)
        lowered = self._controls.lowered()
        quotas: dict[str, list[Quota]] = defaultdict(list)
        for quota in self._quotas.active():
            quotas[quota.department].append(quota)
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
            networks={key.id: read_networks(key.networks) for _, key in living if key.networks},
            grants=grants,
            quotas=quotas,
            suspended={(s.kind, s.target): s.reason for s in self._controls.suspensions()},
            pins={(p.department, p.algorithm): p.version for p in self._controls.pins()},
            levels=levels_of(routes, lowered),
            routes=routes,
            troubles={
                (d.algorithm, d.target): d.message
                for d in deployments
                if d.state == "running" and d.message
            },
            waiting=waiting,
            known=frozenset(self._history.algorithms()),
            notices=notices,
            traffic=self._traffics.all(),
            rates={n: s.rate for n, s in self._samplings.all().items() if s.rate is not None},
            ready=all(d.running or d.state in ("failed", "removing") for d in deployments),
        )

    def _expired(self, moment: datetime) -> bool:
        ends = (key.expires_at for key in self.snapshot.by_id.values())
        return any(end is not None and end <= moment for end in ends)

    def _route(self, deployment: Deployment, notices: dict[tuple[str, int], Notice]) -> Route:
        running: dict[str, Any] = deployment.running
        # The version's own notice says more than the algorithm's; the earlier sunset binds.
        algorithm = deployment.algorithm
        both = [notices.get((algorithm, running["version"])), notices.get((algorithm, 0))]
        notice = min((n for n in both if n), key=lambda n: n.sunset, default=None)
        scaling = deployment.scaling
        least = max(1, scaling.min_replicas) if scaling else deployment.replicas
        name = (running["app"], deployment.target, least, notice)
        if name not in self._opened:
            manifest = Manifest.model_validate(running["manifest"])
            task = open_task(manifest)
            self._opened[name] = Route(
                algorithm=deployment.algorithm, target=deployment.target, app=running["app"],
                version=running["version"], replicas=least, manifest=manifest,
                task=task, signature=task.signature(),
                feature_service=str(manifest.options.get("feature_service", "")),
                plan=pipeline_in(running["plan"]) if running.get("plan") else None,
                notice=notice, headers=notice.headers if notice else (),
                shared=bool(running.get("shared")),
            )  # fmt: skip
        return self._opened[name]

    def _watch(self) -> None:
        while not self._stop.wait(self._refresh):
            try:
                self.load()
            except Exception:  # the last table keeps serving; the next look may succeed
                log.exception("the directory could not be refreshed")

    def identify(self, key: str, session: str = "", peer: str = "", forwarded: str = "") -> Key:
        """Who shows this key (or this console session), from where; NotSignedIn otherwise."""
        opened = "" if key else self._callers.session_id(session)
        if opened and opened not in self.snapshot.by_id:
            self._look_again()  # who just signed in need not wait for the next look
        return self._callers.identify(self.snapshot, key, session, peer, forwarded)

    def holder(self, key: str, session: str) -> Key | None:
        """Whose key this is, wherever it is shown from; None: nobody's."""
        with contextlib.suppress(NotSignedIn):
            return self._callers.holder(self.snapshot, key, session)
        return None

    def source(self, peer: str, forwarded: str) -> str:
        """The address that a call comes from."""
        return self._callers.source(peer, forwarded)

    def permit(self, key: Key, algorithm: str, stated: str) -> Permit:
        """What a call of this key is allowed; Refused with the reason otherwise."""
        return permit(self.snapshot, self._may, key, algorithm, stated)

    def level(self, route: Route) -> Level:
        """How sensitive its answers are."""
        return self.snapshot.levels.get(route, route.manifest.level)

    def may_compose(self, owner: str, algorithm: str, purpose: str) -> None:
        """NotGranted unless an owner of pipelines may let others call this algorithm."""
        may_compose(self.snapshot, owner, algorithm, purpose)

    def _look_again(self) -> None:
        """Whoever just saw a deployment start must not be refused for the rest of a refresh."""
        moment = time.monotonic()
        if moment - self._looked > LOOK_AGAIN_SECONDS:
            self._looked = moment
            with contextlib.suppress(Exception):  # the thread that watches reports it
                self.load()

    def route(self, ref: Ref, ticket: str = "", department: str = "") -> Route:
        """The deployment that answers for this reference; Retired after its sunset.

        A department that is pinned to a version gets it while it runs. Where the algorithm's calls are split,
        equal tickets come to the same deployment.
        """
        route = self._find(ref)
        pinned = self.snapshot.pins.get((department, ref.algorithm)) if department else None
        if pinned and not ref.target and (stays := self._running(Ref(ref.algorithm, str(pinned)))):
            route = stays
        elif not ref.target and (traffic := self.snapshot.traffic.get(ref.algorithm)):
            route = self._split(traffic, ticket) or route
        if route.notice is not None:
            route.notice.check()
        return route

    def splits(self, ref: Ref) -> bool:
        """Whether a split decides which deployment answers for this reference."""
        if ref.target:
            return False
        traffic = self.snapshot.traffic.get(ref.algorithm)
        return traffic is not None and bool(traffic.split)

    def _split(self, traffic: Traffic, ticket: str) -> Route | None:
        """The deployment that a ticket falls to; none when nothing is split, or it does not run."""
        if not traffic.split:
            return None
        target = drawn(traffic.split, lot(traffic.algorithm, ticket))
        return self.aside(traffic.algorithm, target)

    def aside(self, algorithm: str, target: str) -> Route | None:
        """A deployment that is asked besides or instead of the one that was called, if it runs."""
        running = self.snapshot.routes.get(algorithm, ())
        return next((route for route in running if route.target == target), None)

    def notice(self, ref: Ref) -> Notice | None:
        """The notice that an answer about this reference carries, an error too."""
        with contextlib.suppress(CityBrainError):
            return self._find(ref).notice
        whole = self.snapshot.notices.get((ref.algorithm, 0))
        return self.snapshot.notices.get((ref.algorithm, ref.version or 0), whole)

    def _find(self, ref: Ref) -> Route:
        route = self._running(ref)
        if route is None:
            self._look_again()
            route = self._running(ref)
        return route or self._missing(ref)

    def _running(self, ref: Ref) -> Route | None:
        found = self.snapshot.routes.get(ref.algorithm, ())
        if not ref.target:
            first = found[0] if found else None
            return next((route for route in found if route.target == "champion"), first)
        for route in found:
            if ref.target == route.target or ref.version == route.version:
                return route
        return None

    def _missing(self, ref: Ref) -> NoReturn:
        """The reason why nothing answers for a reference."""
        found = self.snapshot.routes.get(ref.algorithm)
        if not found:
            if notice := self.snapshot.notices.get((ref.algorithm, 0)):
                notice.check()
            if state := self.snapshot.waiting.get(ref.algorithm):
                raise NotReady(
                    f"{ref.algorithm} does not answer (deployment: {state}).",
                    hint=f"Its owner sees more with: citybrain logs {ref.algorithm}",
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
        if notice := self.snapshot.notices.get((ref.algorithm, ref.version or 0)):
            notice.check()
        raise VersionNotFound(
            f"{ref} does not run.",
            hint=f"Running: {', '.join(f'{r.algorithm}@{r.target}' for r in found)}.",
        )
