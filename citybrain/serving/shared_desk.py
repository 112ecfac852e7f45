"""Several algorithms in one process: each with its own lane, all with one cache of models.

No Ray in here: the replica (shared_replica.py) hands over what is wanted, and the control process
reads what became of it from a file beside the lanes (`REPORT`).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from citybrain.core.error_marks import marked
from citybrain.core.errors import UNTRUSTED, CityBrainError, NotReady
from citybrain.core.signatures import check
from citybrain.models.package import Package, package_files
from citybrain.models.predictor import Predictor
from citybrain.serving.desk import Desk
from citybrain.serving.errand import Errand
from citybrain.serving.lane import LaneServer
from citybrain.serving.lane_doors import UnixDoor
from citybrain.serving.model_cache import Loaded, ModelCache, Turns, resident
from citybrain.serving.replica import ReplicaSpec, changed_files
from citybrain.serving.shared import REPORT, Report, Seen, SharedModel
from citybrain.serving.wire import Call, Served, error_reply

log = logging.getLogger(__name__)
LOOK_SECONDS = 0.5
RETRY_SECONDS = 30.0
"""Seconds until a model that failed is tried again, or less where files are looked at more often."""


@dataclass(eq=False)
class Place:
    """One algorithm's place in the process."""

    wanted: SharedModel
    state: str = "deploying"
    message: str = ""
    closed: CityBrainError | None = None
    """What every call is answered with, instead of by the model."""
    looked: float = 0.0
    lane: LaneServer | None = None

    @property
    def name(self) -> str:
        """The algorithm."""
        return self.wanted.spec.app.partition(".")[0]

    def due(self, moment: float) -> bool:
        """Whether it is to be loaded, tried again, or its files looked at."""
        verify = self.wanted.spec.verify
        pause = verify if self.state == "running" else min(RETRY_SECONDS, max(1.0, verify))
        return self.state == "deploying" or moment - self.looked >= pause


class SharedDesk:
    """Answers frames for every algorithm that was handed over; one model works at a time."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._places: dict[str, Place] = {}
        self._cache: ModelCache[Desk] = ModelCache(limit, self._load)
        self._turns = Turns()
        self._runtimes: set[str] = set()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        threading.Thread(target=self._keep, name="keeper", daemon=True).start()

    def take(self, models: list[SharedModel]) -> None:
        """Have exactly these algorithms; returns at once, they are loaded one after another."""
        wanted = {model.spec.app: model for model in models}
        with self._lock:
            gone = [self._places.pop(app) for app in list(self._places) if app not in wanted]
            for app, model in wanted.items():
                place = self._places.setdefault(app, Place(model))
                if place.wanted != model:  # another attempt, or other signers
                    place.wanted, place.state = model, "deploying"
        for place in gone:
            threading.Thread(target=self._end, args=(place,), daemon=True).start()
        self._wake.set()

    def answer(self, app: str, calls: list[Call], errand: Errand) -> Served:
        """A frame's replies; loads the model again if it had to go."""
        place = self._places.get(app)
        if place is None:
            return _refused(_absent(app), calls)
        if place.closed:
            return _refused(place.closed, calls)
        try:
            desk = self._cache.get(app)
        except Exception as error:  # the keeper tries again
            return _refused(self._failed(place, place.wanted, error), calls)
        with self._turns:
            began = errand.begin()
            replies = desk.answer(calls, errand)
            worked = time.perf_counter() - began
            return Served(replies, began - errand.arrived, worked, desk.modelled)

    def close(self) -> None:
        """Withdraw every lane, all at once, and answer what was sent before."""
        self._closing = True
        self._wake.set()
        with self._lock:
            lanes = [place.lane for place in self._places.values() if place.lane]
        ending = [threading.Thread(target=lane.withdraw) for lane in lanes]
        for thread in ending:
            thread.start()
        for thread in ending:
            thread.join()

    def _keep(self) -> None:
        """Load what is new, look at files, try again what failed."""
        while not self._closing:
            self._wake.wait(LOOK_SECONDS)
            self._wake.clear()
            try:
                self._look()
            except Exception:  # a full disk, say: the models in memory answer all the same
                log.exception("a look at the models failed, will repeat")

    def _look(self) -> None:
        for app, place in list(self._places.items()):
            if not self._closing and place.due(time.monotonic()):
                self._prove(app, place)
                self._report()
        self._report()

    def _prove(self, app: str, place: Place) -> None:
        wanted = place.wanted
        try:
            if place.state == "running":
                Package.open(Path(wanted.spec.folder), digest=wanted.spec.digest)
            else:
                self._cache.renew(app)
        except Exception as error:
            self._failed(place, wanted, error)
            return
        with self._lock:
            if self._places.get(app) is not place or place.wanted is not wanted or self._closing:
                return  # it was changed meanwhile, and is due again
            if place.lane is None:
                lane = LaneServer(UnixDoor(self._folder, app), partial(self.answer, app))
                lane.announce()
                place.lane = lane
            place.state, place.message, place.closed = "running", "", None
            place.looked = time.monotonic()

    def _failed(self, place: Place, wanted: SharedModel, error: Exception) -> CityBrainError:
        """Nobody is answered by it until it loads again; its neighbours go on."""
        log.error("%s cannot be loaded", wanted.spec.app, exc_info=error)
        closed = changed_files(place.name) if isinstance(error, UNTRUSTED) else _broken(place.name)
        with self._lock:
            if place.wanted is wanted:
                place.state, place.looked, place.closed = "failed", time.monotonic(), closed
                place.message = _said(error)
        self._cache.drop(wanted.spec.app)
        return closed

    def _load(self, app: str) -> Loaded[Desk]:
        place = self._places.get(app)
        if place is None:
            raise _absent(app)
        spec = place.wanted.spec
        folder = Path(spec.folder)
        check(spec.statement, place.name, spec.version, spec.digest, spec.signers, spec.form)
        before = resident()
        predictor = _opened(spec)
        if (runtime := predictor.package.manifest.runtime) not in self._runtimes:
            # The first of a runtime brings libraries, which stay: what a second one takes is its own.
            self._runtimes.add(runtime)
            before = resident()
            predictor = _opened(spec)
        size = sum(file.stat().st_size for file in package_files(folder))
        return Loaded(Desk(predictor, spec.version), max(size, resident() - before))

    def _end(self, place: Place) -> None:
        """Take it down; what was sent to it is answered first."""
        if place.lane:
            place.lane.withdraw()
        if place.wanted.spec.app not in self._places:  # nobody asked for it again meanwhile
            self._cache.drop(place.wanted.spec.app)

    def _report(self) -> None:
        """Say what became of each, where the control process reads it."""
        if self._closing:
            return  # the word is with the replica that comes next
        sizes = self._cache.sizes
        with self._lock:
            report = Report([
                Seen(place.wanted, place.state, place.message, sizes.get(app, 0))
                for app, place in self._places.items()
            ])  # fmt: skip
        text, path = msgspec.json.encode(report), self._folder / REPORT
        with contextlib.suppress(FileNotFoundError):
            if path.read_bytes() == text:
                return
        hidden = path.with_suffix(".new")
        hidden.write_bytes(text)
        hidden.replace(path)


def _opened(spec: ReplicaSpec) -> Predictor:
    predictor = Predictor.open(Path(spec.folder), digest=spec.digest, threads=spec.threads)
    predictor.warm_up()
    return predictor


def _said(error: Exception) -> str:
    """As the reconciler reads it."""
    return (
        marked(error) if isinstance(error, CityBrainError) else f"{type(error).__name__}: {error}"
    )


def _refused(error: CityBrainError, calls: list[Call]) -> Served:
    return Served([error_reply(error.code, error.message, error.hint)] * len(calls))


def _absent(app: str) -> NotReady:
    return NotReady(f"{app} is not here.", hint="Repeat the call in a few seconds.")


def _broken(name: str) -> NotReady:
    return NotReady(
        f"{name} does not answer: its model cannot be loaded.",
        hint=f"Its owner sees more with: citybrain logs {name}",
    )
