"""A Ray Serve deployment: a thin coat around the desk. Everything interesting is in there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from citybrain.core.error_marks import marked
from citybrain.core.errors import CityBrainError, MissingLibrary, NotReady
from citybrain.core.schemas import Scaling
from citybrain.core.shelf import needs
from citybrain.serving.errand import Errand
from citybrain.serving.scaling import LOAD, autoscaling
from citybrain.serving.wire import Call, Departure, Served, by_our_clock

if TYPE_CHECKING:
    from citybrain.models.predictor import Predictor


class ReplicaSpec(NamedTuple):
    """What a replica loads: a verified folder, the digest it must have, and the version."""

    folder: str
    digest: str
    version: int
    threads: int
    """CPUs that it has, and uses for one model call."""
    lanes: str
    """The folder where the replica announces its lane, if gateways run on its node."""
    app: str
    form: str
    """Which form of the version the folder holds."""
    statement: str
    """The platform's signed word for the folder."""
    signers: dict[str, str]
    """Public keys that are trusted, in hex."""
    verify: float
    """Seconds between looks whether the files are still those that were signed."""
    environment: dict[str, str]
    """Settings that the replica needs; Ray's processes inherit none."""
    gpus: float = 0.0


@contextmanager
def _told() -> Iterator[None]:
    """Our errors as the reconciler reads them: Serve passes on an exception's text and no more."""
    try:
        yield
    except CityBrainError as error:
        raise RuntimeError(marked(error)) from None


def as_ray_app(
    spec: ReplicaSpec, replicas: int, scaling: Scaling | None, *, first: bool, attempt: str
) -> Any:
    """The Serve application of one algorithm version.

    `first`: it does not run yet. What differs in nothing but numbers is changed without a restart,
    unless it is another `attempt`.
    """
    with needs():
        from ray import serve

    many = (
        {"autoscaling_config": autoscaling(scaling, first=first)}
        if scaling
        else {"num_replicas": replicas}
    )

    @serve.deployment(
        name="replica",
        **many,
        max_ongoing_requests=32,
        graceful_shutdown_timeout_s=20,
        health_check_period_s=5,
        health_check_timeout_s=30,
        ray_actor_options={"num_cpus": spec.threads, "num_gpus": spec.gpus},
    )
    class Replica:
        def __init__(self, spec: ReplicaSpec) -> None:
            import threading
            import time
            from concurrent.futures import ThreadPoolExecutor
            from pathlib import Path

            from citybrain.core.settings import QUIET_LIBRARIES, put_environment
            from citybrain.core.signatures import check
            from citybrain.models.predictor import Predictor
            from citybrain.serving.desk import Desk
            from citybrain.serving.lane import LaneServer
            from citybrain.serving.lane_board import door_here

            put_environment(QUIET_LIBRARIES | spec.environment | hidden_gpus(spec))
            name, folder = spec.app.partition(".")[0], Path(spec.folder)
            with _told():
                check(spec.statement, name, spec.version, spec.digest, spec.signers, spec.form)
                predictor = Predictor.open(folder, digest=spec.digest, threads=spec.threads)
                refuse_no_gpu(spec, predictor)
                predictor.warm_up()
            self._spec, self._verified = spec, time.monotonic()
            self._runtime = predictor.runtime
            self._desk = Desk(predictor, spec.version)
            self._model = threading.Lock()
            # A thread of its own: the loop keeps answering health checks while the model works.
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
            with _told():
                self._lane = LaneServer(door_here(Path(spec.lanes), spec.app), self._answer)
            self._lane.announce()

        def _answer(self, calls: list[Call], errand: Errand) -> Served:
            import time

            with self._model:  # one frame at a time: the replica keeps to the CPUs it was given
                began = errand.begin()
                replies = self._desk.answer(calls, errand)
                worked = time.perf_counter() - began
                return Served(replies, began - errand.arrived, worked, self._desk.modelled)

        async def frame(self, calls: list[Call], left: Departure | None = None) -> Served:
            """A frame by handle: before a gateway has found the lane, or after it broke."""
            import asyncio

            errand = Errand()
            if left is not None:
                calls = by_our_clock(calls, left, errand.arrived)
            loop = asyncio.get_running_loop()
            with self._lane.load.frame():
                try:
                    return await loop.run_in_executor(self._thread, self._answer, calls, errand)
                except asyncio.CancelledError:
                    errand.ask()
                    raise

        async def record_autoscaling_stats(self) -> dict[str, float]:
            """Serve asks about once a second, where the number of replicas follows the load."""
            return {LOAD: self._lane.load.take()}

        async def check_health(self) -> None:
            """Serve asks every few seconds; after three errors it replaces this replica."""
            import asyncio
            import time
            from pathlib import Path

            from citybrain.models.package import Package

            if self._runtime.remote:
                await asyncio.to_thread(self._ask_remote)
            spec = self._spec
            if time.monotonic() - self._verified < spec.verify:
                return
            with _told():
                try:
                    await asyncio.to_thread(Package.open, Path(spec.folder), digest=spec.digest)
                except CityBrainError:
                    # Until it is replaced: what was loaded may lie in memory that maps these files.
                    self._desk.closed = changed_files(spec.app.partition(".")[0])
                    raise
            self._desk.closed, self._verified = None, time.monotonic()

        def _ask_remote(self) -> None:
            """Say it where the model's server is silent; another replica would not help."""
            from citybrain.core.errors import RemoteDown

            said = ""
            try:
                self._runtime.check()
            except RemoteDown as error:
                said = error.message
            self._lane.door.say(said)

        def __del__(self) -> None:
            """Serve calls this when the replica is told to stop and its handle calls are done."""
            if lane := getattr(self, "_lane", None):
                lane.withdraw()

    deployment: Any = Replica
    # Serve would draw a version at random and so restart every replica to add one. A replica that
    # started with a fixed number reports no load later, so that difference is a restart.
    marks = repr((spec, scaling is None, attempt))
    deployment._version = hashlib.sha256(marks.encode()).hexdigest()[:16]  # noqa: SLF001
    return deployment.bind(spec)


def hidden_gpus(spec: ReplicaSpec) -> dict[str, str]:
    """Variables by which a replica that has no GPU sees none; Ray leaves all of them in sight."""
    return {} if spec.gpus else {"CUDA_VISIBLE_DEVICES": ""}


def refuse_no_gpu(spec: ReplicaSpec, predictor: Predictor) -> None:
    """MissingLibrary where a model that was given a GPU runs on the CPU all the same."""
    if not spec.gpus:
        return
    told = predictor.runtime.describe()
    if told.get("device") != "CUDA":
        library = told.get("library", predictor.package.manifest.runtime)
        raise MissingLibrary(
            f"The model was given a GPU, and {library} as it is installed does not use it.",
            hint="Install a build of it for CUDA, or deploy it without --gpus.",
        )


def changed_files(name: str) -> NotReady:
    """What callers are told while nobody vouches for its files."""
    return NotReady(
        f"{name} does not answer: its files are not those that were registered.",
        hint=f"Its owner sees more with: citybrain logs {name}",
    )
