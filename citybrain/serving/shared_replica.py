"""The Ray Serve deployment of several algorithms in one process: a thin coat around SharedDesk."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from citybrain.core.shelf import needs
from citybrain.serving.errand import Errand
from citybrain.serving.lane_board import HEAD
from citybrain.serving.replica import hidden_gpus
from citybrain.serving.shared import SharedModel, Told
from citybrain.serving.wire import Call, Departure, Served, by_our_clock

HANDLE_THREADS = 8


def as_shared_app(models: list[SharedModel], folder: Path, limit: int) -> Any:
    """The Serve application; another list of models reaches the same replica, which goes on."""
    with needs():
        from ray import serve

    @serve.deployment(
        name="replica",
        num_replicas=1,
        max_ongoing_requests=256,
        graceful_shutdown_timeout_s=20,
        health_check_period_s=5,
        health_check_timeout_s=30,
        # What it reports lies beside the lanes, so it stays on the node where gateways run.
        ray_actor_options={"num_cpus": 1, "resources": {HEAD: 0.001}},
        user_config=msgspec.to_builtins(Told(models)),
    )
    class SharedReplica:
        def __init__(self, folder: str, limit: int) -> None:
            from concurrent.futures import ThreadPoolExecutor

            self._folder, self._limit = folder, limit
            self._desk: Any = None
            # The loop keeps answering health checks while models work and load.
            self._threads = ThreadPoolExecutor(HANDLE_THREADS, thread_name_prefix="handle")

        def reconfigure(self, told: dict[str, Any]) -> None:
            """Serve hands over the list, before the first call and whenever it changed."""
            from citybrain.core.settings import QUIET_LIBRARIES, put_environment

            found = msgspec.convert(told, Told)
            for model in found.models:
                put_environment(QUIET_LIBRARIES | model.spec.environment | hidden_gpus(model.spec))
            if self._desk is None:
                from citybrain.serving.shared_desk import SharedDesk

                self._desk = SharedDesk(Path(self._folder), self._limit)
            self._desk.take(found.models)

        async def frame(self, calls: list[Call], app: str, left: Departure | None = None) -> Served:
            """A frame by handle: before a gateway has found the lane, or after it broke."""
            import asyncio

            errand = Errand()
            if left is not None:
                calls = by_our_clock(calls, left, errand.arrived)
            loop = asyncio.get_running_loop()
            try:
                served: Served = await loop.run_in_executor(
                    self._threads, self._desk.answer, app, calls, errand
                )
            except asyncio.CancelledError:
                errand.ask()
                raise
            return served

        def __del__(self) -> None:
            """Serve calls this when the replica is told to stop and its handle calls are done."""
            if desk := getattr(self, "_desk", None):
                desk.close()

    deployment: Any = SharedReplica
    # A version of its own, that no list changes: Serve restarts what has another.
    marks = repr((str(folder), limit))
    deployment._version = hashlib.sha256(marks.encode()).hexdigest()[:16]  # noqa: SLF001
    return deployment.bind(str(folder), limit)
