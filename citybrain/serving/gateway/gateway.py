"""What happens to a call, whatever door it came through."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from citybrain.core.errors import CityBrainError, Unavailable, error_from
from citybrain.core.names import Ref
from citybrain.core.schemas import Key
from citybrain.core.settings import ServingSettings
from citybrain.serving.gateway.coalescer import Coalescer, Waiting
from citybrain.serving.gateway.directory import Directory, Route
from citybrain.serving.problems import status_of
from citybrain.serving.protocols import task as task_protocol
from citybrain.serving.wire import Call, Reply
from citybrain.storage.journal import Admitted, JournalWriter, Settled

log = logging.getLogger(__name__)

Send = Callable[[Route, list[Call]], Awaitable[list[Reply]]]
Histories = Callable[[str, list[str]], Awaitable[list[Any]]]


@dataclass(slots=True)
class Record:
    """What the journal writes about one call."""

    admitted: Admitted
    version: int
    started: float


class Gateway:
    """Purpose, route, features, coalescer, journal: the one data plane behind all doors."""

    def __init__(
        self, directory: Directory, journal: JournalWriter, send: Send, histories: Histories,
        settings: ServingSettings,
    ) -> None:  # fmt: skip
        self.directory = directory
        self._journal = journal
        self._send = send
        self._histories = histories
        self._settings = settings
        self._coalescers: dict[Route, Coalescer] = {}
        self._count = itertools.count(secrets.randbits(32))
        self._node = secrets.token_hex(4)

    def new_request_id(self) -> str:
        """32 hex digits that sort by time: milliseconds, this process, a counter."""
        return f"{time.time_ns() // 1_000_000:012x}{self._node}{next(self._count) % 2**48:012x}"

    async def infer(
        self, key: Key, ref: Ref, call: Call, *, stated_purpose: str, door: str
    ) -> tuple[Reply, Route]:
        """Answer one call, or raise the error that its door shows.

        Once admitted, a call is settled in the journal before this returns, answered or failed.
        """
        purpose = self.directory.purpose(key, ref.algorithm, stated_purpose)
        route = self.directory.route(ref)
        started = time.perf_counter()
        if call.codec == "task" and route.feature_service:
            call = await self._with_features(call, route)
        coalescer = self._coalescers.get(route) or self._open(route)
        admitted = Admitted(
            call.request_id, time.time_ns() // 1_000_000, key.id, key.department, ref.algorithm,
            purpose, door,
        )  # fmt: skip
        loop = asyncio.get_running_loop()
        waiting = Waiting(call, loop.create_future(), Record(admitted, route.version, started))
        coalescer.submit(waiting)
        self._journal.admit(admitted)
        # When the client hangs up this wait ends; the frame still runs, and settles the call.
        reply = await waiting.future
        if reply.code:
            raise error_from(reply.code, reply.body.decode(), reply.hint)
        return reply, route

    def _open(self, route: Route) -> Coalescer:
        for old in [r for r in self._coalescers if (r.algorithm, r.target) == (
            route.algorithm, route.target
        )]:  # fmt: skip
            del self._coalescers[old]  # what it carries still arrives; new calls go to the new
        coalescer = Coalescer(
            lambda calls: self._frame(route, calls), self._settle, self._settings,
            replicas=route.replicas,
        )  # fmt: skip
        self._coalescers[route] = coalescer
        return coalescer

    async def _frame(self, route: Route, calls: list[Call]) -> list[Reply]:
        try:
            self._journal.flush()  # ADMITTED lines of this frame, in one write
        except OSError as error:
            raise Unavailable("The usage of this call cannot be recorded.") from error
        return await self._send(route, calls)

    def _settle(self, frame: list[Waiting], replies: list[Reply]) -> None:
        ended = time.perf_counter()
        moment = time.time_ns() // 1_000_000
        for waiting, reply in zip(frame, replies, strict=True):
            record = waiting.record
            assert isinstance(record, Record)
            status = status_of(error_from(reply.code, "")) if reply.code else 200
            micros = int((ended - record.started) * 1e6)
            a = record.admitted
            self._journal.settle(
                Settled(
                    a.request_id,
                    moment,
                    a.key,
                    a.department,
                    a.algorithm,
                    a.purpose,
                    a.door,
                    record.version,
                    status,
                    reply.rows,
                    micros,
                )
            )
        self._journal.flush()  # SERVED is in the kernel before the first byte leaves

    async def _with_features(self, call: Call, route: Route) -> Call:
        """Fill in the history of each entity that an item names; the model sees only values."""
        if not call.content_type.startswith("application/json") and call.content_type:
            return call
        task: Any = route.task
        items = task_protocol.items(call.body, task)
        entities = task.entities(items)
        if not entities:
            return call
        found = await self._histories(route.feature_service, entities)
        values = [history[0] if history else None for history in found]
        moments = [history[1] if history else None for history in found]
        filled = task.fill(items, values, moments)
        body = msgspec.json.encode({"inputs": filled})
        return call._replace(body=body, content_type="application/json")

    async def keep_journal(self) -> None:
        """The timer's part of the journal, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._settings.journal_sync)
            try:
                self._journal.flush()
                if (file := self._journal.unsynced) is not None:
                    await loop.run_in_executor(None, os.fdatasync, file)
                    self._journal.synced()
            except OSError:
                log.exception("the journal cannot be written")


def problem_of(error: BaseException) -> CityBrainError:
    """Any exception as an error that may be shown; unexpected ones are logged and say nothing."""
    if isinstance(error, CityBrainError):
        return error
    log.error("a call failed unexpectedly", exc_info=error)
    return error_from("model_failed", "The call failed inside the platform.")
