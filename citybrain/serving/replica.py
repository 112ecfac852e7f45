"""A Ray Serve deployment: a thin coat around the desk. Everything interesting is in there."""

from __future__ import annotations

from typing import Any, NamedTuple

from citybrain.core.shelf import needs
from citybrain.serving.wire import Call, Reply


class ReplicaSpec(NamedTuple):
    """What a replica loads: a verified folder, the digest it must have, and the version."""

    folder: str
    digest: str
    version: int
    threads: int
    lanes: str
    """The folder where the replica announces its lane."""
    app: str
    statement: str
    """The platform's signed word for the folder."""
    signers: dict[str, str]
    """Public keys that are trusted, in hex."""


VERIFY_SECONDS = 300.0
"""Between looks whether the files behind a running replica are still those that were signed."""


def as_ray_app(spec: ReplicaSpec, *, replicas: int) -> Any:
    """The Serve application of one algorithm version."""
    with needs():
        from ray import serve

    @serve.deployment(
        name="replica",
        num_replicas=replicas,
        max_ongoing_requests=32,
        graceful_shutdown_timeout_s=20,
        health_check_period_s=5,
        health_check_timeout_s=30,
        ray_actor_options={"num_cpus": 1},
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

            put_environment(QUIET_LIBRARIES)
            name = spec.app.partition(".")[0]
            check(spec.statement, name, spec.version, spec.digest, spec.signers)
            predictor = Predictor.open(Path(spec.folder), digest=spec.digest, threads=spec.threads)
            predictor.warm_up()
            self._spec, self._verified = spec, time.monotonic()
            self._desk = Desk(predictor, spec.version)
            self._model = threading.Lock()
            # A thread of its own: the loop keeps answering health checks while the model works.
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
            self._lane = LaneServer(Path(spec.lanes), spec.app, self._answer)
            self._lane.announce()

        def _answer(self, calls: list[Call]) -> list[Reply]:
            with self._model:  # one frame at a time: the replica keeps to the CPUs it was given
                return self._desk.answer(calls)

        async def frame(self, calls: list[Call]) -> list[Reply]:
            """A frame by handle: before a gateway has found the lane, or after it broke."""
            import asyncio

            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._answer, calls)

        async def check_health(self) -> None:
            """Serve asks every few seconds; a raised error replaces this replica."""
            import asyncio
            import time
            from pathlib import Path

            from citybrain.models.package import Package

            if time.monotonic() - self._verified > VERIFY_SECONDS:
                spec = self._spec
                await asyncio.to_thread(Package.open, Path(spec.folder), digest=spec.digest)
                self._verified = time.monotonic()

        def __del__(self) -> None:
            """Serve calls this when the replica is told to stop and its handle calls are done."""
            if lane := getattr(self, "_lane", None):
                lane.withdraw()

    deployment: Any = Replica
    return deployment.bind(spec)
