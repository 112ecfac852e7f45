"""`citybrain demo`: the whole life of a starter algorithm of each family, on real processes.

Trained here, registered, examined in a business scenario, approved by a second key, deployed on
Ray Serve, called by another department with its own key, counted. Training of one algorithm goes
on while the one before is examined and started.
"""

from __future__ import annotations

import queue
import ssl
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from citybrain.core.errors import CityBrainError, NameTaken
from citybrain.core.home import Home
from citybrain.core.schemas import IssuedKey, NewGrant, NewKey, Version
from citybrain.core.settings import Settings
from citybrain.models.starters import shipped
from citybrain.platform.training import Trained, train_package
from citybrain.sdk import CityBrain

CALLS = 20
SEED = 0
DEPARTMENTS = {
    "traffic": ("交通局", "Transport"),
    "safety": ("公安局", "Public Security"),
    "city-management": ("城市管理局", "City Management"),
    "tourism": ("文化和旅游局", "Culture and Tourism"),
    "emergency": ("应急管理局", "Emergency Management"),
}


@dataclass(frozen=True)
class Starter:
    """A starter algorithm, the scenario that examines it, and the department that reuses it."""

    name: str
    owner: str
    scenario: str
    user: str


STARTERS = (
    Starter("crowd-level", "tourism", "scenic-crowd", "safety"),
    Starter("traffic-flow", "traffic", "evening-peak", "tourism"),
    Starter("hotline-router", "city-management", "hotline-routing", "traffic"),
    Starter("spoken-digits", "safety", "emergency-number", "emergency"),
    Starter("vehicle-detector", "traffic", "road-vehicles", "city-management"),
)


@dataclass
class Life:
    """What happened to one starter."""

    starter: Starter
    steps: list[str] = field(default_factory=list)
    version: int = 0
    figure: str = ""
    gate: str = ""
    approved_by: str = ""
    calls: int = 0
    p50_ms: float = 0.0
    counted: int = 0
    error: str = ""


class Demo:
    """One run of the demo against a running platform."""

    def __init__(
        self, home: Home, url: str, watch: Callable[[str, float, str], None],
        verify: ssl.SSLContext | None = None,
    ) -> None:  # fmt: skip
        self._home = home
        self._verify = verify
        self._watch = watch
        self._url = url
        self._admin = CityBrain(url, home.admin_key.read_text().strip(), timeout=600, verify=verify)
        self.lives = {starter.name: Life(starter) for starter in STARTERS}

    def run(self) -> list[Life]:
        """Every starter through its whole life; an error ends that one's life, not the demo."""
        for name, (zh, en) in DEPARTMENTS.items():
            try:
                self._admin.add_department(name, zh, en)
            except NameTaken:
                continue
        trained: queue.Queue[tuple[Starter, Trained | BaseException | None]] = queue.Queue()
        threading.Thread(target=self._train_all, args=(trained,), daemon=True).start()
        for _ in STARTERS:
            starter, package = trained.get()
            life = self.lives[starter.name]
            try:
                if isinstance(package, BaseException):
                    raise package
                self._live(life, package)
                self._watch(starter.name, 1.0, "done")
            except CityBrainError as error:
                life.error = str(error)
                self._watch(starter.name, 1.0, f"failed: {error.message[:60]}")
        self._count()
        return list(self.lives.values())

    def _train_all(self, out: queue.Queue[tuple[Starter, Trained | BaseException | None]]) -> None:
        there = {d.algorithm for d in self._admin.deployments() if d.state == "running"}
        for starter in STARTERS:
            try:
                if starter.name in there:  # a demo before this one left it running
                    out.put((starter, None))
                    continue
                if (ready := shipped(starter.name)) is not None:
                    self._watch(starter.name, 0.6, "comes with weights")
                    out.put((starter, Trained(ready.folder, starter.name, ready.metrics)))
                    continue
                package = train_package(
                    starter.name, self._home, None, seed=SEED, budget=None,
                    watch=self._training_watch(starter.name),
                )  # fmt: skip
                out.put((starter, package))
            except Exception as error:  # carried to the main thread, which reports it
                known = error if isinstance(error, CityBrainError) else CityBrainError(repr(error))
                out.put((starter, known))

    def _training_watch(self, name: str) -> Callable[[float, str], None]:
        return lambda share, text: self._watch(name, 0.6 * share, text.partition(": ")[2])

    def _live(self, life: Life, package: Trained | None) -> None:
        starter = life.starter
        maker, approver = (
            self._key(starter.owner, "developer", f"demo {role}") for role in ("maker", "approver")
        )
        with CityBrain(self._url, maker.secret, timeout=600, verify=self._verify) as city:
            if package is None:
                version = city.version(starter.name, "champion")
                life.steps.append("found")
            else:
                version = self._approved(life, city, approver, package)
            life.version = version.version
            self._report(life, city)
            self._watch(starter.name, 0.85, "starting")
            deployed = city.deploy(starter.name)
            if deployed.state != "running":
                raise CityBrainError(f"It does not run: {deployed.message[:300]}")
            life.steps.append("deployed")
            self._call(life, city.algorithm(starter.name).example)

    def _approved(
        self, life: Life, city: CityBrain, approver: IssuedKey, package: Trained
    ) -> Version:
        name = life.starter.name
        self._watch(name, 0.6, "registering")
        version = city.register(package.folder, name, package.metrics)
        city.set_approval(name, "four-eyes")
        life.steps.append("registered")
        city.evaluate(
            life.starter.scenario, name, str(version.version),
            watch=lambda share, text: self._watch(name, 0.6 + 0.25 * share, text),
        )  # fmt: skip
        promotion = city.promote(name, version.version)
        with CityBrain(self._url, approver.secret, verify=self._verify) as second:
            second.approve(promotion.id)
        life.approved_by = approver.note
        life.steps.append("approved")
        return version

    def _report(self, life: Life, city: CityBrain) -> None:
        for entry in city.league(life.starter.scenario):
            if entry.algorithm == life.starter.name and entry.version == life.version:
                report = entry.report
                metric, found = next(iter(report["metrics"].items()))
                baseline = report["baseline"]
                life.figure = (
                    f"{metric} {found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}] "
                    f"({baseline['name']} {baseline['metrics'][metric]:.3f})"
                )
                life.gate = "passed" if entry.passed else "failed"

    def _call(self, life: Life, example: dict[str, Any]) -> None:
        """Call it as another department does: with its own key, under its own grant."""
        name = life.starter.name
        self._watch(name, 0.95, f"called by {life.starter.user}")
        key = self._key(life.starter.user, "department", f"demo caller of {name}")
        self._admin.add_grant(NewGrant(department=life.starter.user, algorithm=name))
        inputs = example["inputs"]
        if name == "traffic-flow":
            inputs = [{"entity": self._push_history(inputs[0]["series"])}]
        times = []
        with CityBrain(self._url, key.secret, verify=self._verify) as city:
            _once_granted(lambda: city.predict(name, inputs))
            for _ in range(CALLS - 1):
                start = time.perf_counter()
                answer = city.predict(name, inputs)
                times.append((time.perf_counter() - start) * 1000)
                assert answer["version"] == life.version and len(answer["results"]) == len(inputs)
        life.calls = CALLS
        life.p50_ms = statistics.median(times)
        life.steps.append("called")

    def _push_history(self, values: list[float]) -> str:
        sensor = "demo-sensor-1"
        moment = datetime.now(Settings().zone) - timedelta(minutes=5)
        row = {"sensor": sensor, "values": values, "last_time": moment.isoformat()}
        self._admin.push_features([row])
        return sensor

    def _key(self, department: str, role: str, note: str) -> IssuedKey:
        return self._admin.add_key(
            NewKey.model_validate({"department": department, "role": role, "note": note})
        )

    def _count(self) -> None:
        """Wait until the ledger has every call, or say how many it has."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for life in self.lives.values():
                life.counted = sum(
                    line.requests - line.failed
                    for line in self._admin.usage()
                    if (line.department, line.algorithm) == (life.starter.user, life.starter.name)
                )
            if all(life.counted >= life.calls for life in self.lives.values()):
                return
            time.sleep(0.3)
        for life in self.lives.values():
            if life.counted < life.calls and not life.error:
                life.error = f"the ledger has {life.counted} of {life.calls} calls"


def _once_granted(call: Callable[[], Any], seconds: float = 5.0) -> None:
    """The first call after a grant: gateways learn of it within a second."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            call()
        except CityBrainError as error:
            if error.code not in ("not_granted", "bad_key", "not_ready", "not_deployed") or (
                time.monotonic() > deadline
            ):
                raise
            time.sleep(0.2)
        else:
            return
