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


def as_ray_app(spec: ReplicaSpec, *, name: str, replicas: int) -> Any:
    """The Serve application of one algorithm version."""
    with needs():
        from ray import serve

    @serve.deployment(
        name=name,
        num_replicas=replicas,
        max_ongoing_requests=32,
        graceful_shutdown_timeout_s=20,
        health_check_period_s=5,
        health_check_timeout_s=30,
        ray_actor_options={"num_cpus": 1},
    )
    class Replica:
        def __init__(self, spec: ReplicaSpec) -> None:
            from concurrent.futures import ThreadPoolExecutor
            from pathlib import Path

            from citybrain.core.settings import QUIET_LIBRARIES, put_environment
            from citybrain.models.predictor import Predictor
            from citybrain.serving.desk import Desk

            put_environment(QUIET_LIBRARIES)
            predictor = Predictor.open(Path(spec.folder), digest=spec.digest, threads=spec.threads)
            predictor.warm_up()
            self._desk = Desk(predictor, spec.version)
            # One thread: the loop keeps answering health checks while the model works.
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")

        async def frame(self, calls: list[Call]) -> list[Reply]:
            import asyncio

            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._desk.answer, calls)

    deployment: Any = Replica
    return deployment.bind(spec)
