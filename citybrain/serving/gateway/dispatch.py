"""Calls into the lines of their deployments, and their ends into the journal."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import secrets
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from citybrain.core.errors import Unavailable, error_from
from citybrain.core.settings import ServingSettings
from citybrain.serving.gateway.coalescer import Coalescer
from citybrain.serving.gateway.endings import unrecorded
from citybrain.serving.gateway.refusals import Refusals
from citybrain.serving.gateway.snapshot import Route
from citybrain.serving.gateway.traces import Trace
from citybrain.serving.gateway.waiting import Waiting
from citybrain.serving.gateway.waiting_room import WaitingRoom
from citybrain.serving.metering.till import Taken, Till
from citybrain.serving.problems import status_of
from citybrain.serving.wire import Call, Reply, Served
from citybrain.storage.journal import Admitted, JournalWriter, Settled

log = logging.getLogger(__name__)

Send = Callable[..., Coroutine[Any, Any, Served]]
Sample = Callable[[Settled, Route, Call, Reply], None]
"""Told of every settled call; it keeps some for the prediction log."""
Launch = Callable[[Route, list[Call]], "asyncio.Future[Served] | None"]


@dataclass(slots=True)
class Record:
    """What the journal writes about one call."""

    admitted: Admitted
    route: Route
    """The deployment that is asked now."""
    started: float
    trace: Trace | None = None
    drawn: Route | None = None
    """The deployment that a split drew the call to, if one did."""
    draw: tuple[int, int, int] = (0, 0, 0)
    """Its version, and the status and microseconds of the call there, once that is known."""
    taken: Taken | None = None
    """What is reserved of the department's limits, until the call is settled."""
    scenario: str = ""
    open: bool = False
    """Whether it was admitted, and so will be settled."""
    kept_open: frozenset[str] = frozenset()
    """Codes of errors that do not end the call, because another deployment is asked then."""


class Dispatch:
    """A coalescer for each deployment, and the journal behind all of them."""

    def __init__(
        self, journal: JournalWriter, send: Send, settings: ServingSettings,
        lanes: Callable[[str], int], launch: Launch = lambda _route, _calls: None,
        sample: Sample | None = None, till: Till | None = None,
    ) -> None:  # fmt: skip
        self.till = till
        self._journal = journal
        self._send = send
        self._lanes = lanes
        self._launch = launch
        self._sample = sample
        self._settings = settings
        self.room = WaitingRoom(settings.max_queued_bytes)
        self.refusals = Refusals(journal)
        self._coalescers: dict[Route, Coalescer] = {}
        self._count = itertools.count(secrets.randbits(32))
        self._node = secrets.token_hex(4)

    def new_request_id(self) -> str:
        """32 hex digits that sort by time: milliseconds, this process, a counter."""
        return f"{time.time_ns() // 1_000_000:012x}{self._node}{next(self._count) % 2**48:012x}"

    @property
    def patience(self) -> float:
        """Seconds until an answer, or a part of one, is given up."""
        return self._settings.call_timeout

    def submit(self, waiting: Waiting, route: Route) -> None:
        """Put a call into the line of a deployment; Overloaded, and nothing done, if it is full."""
        (self._coalescers.get(route) or self._open(route)).submit(waiting)
        self.admit(waiting)  # a second line of a call changes nothing

    def is_free(self, route: Route, size: int) -> bool:
        """Whether nobody waits for a deployment, and a call of so many bytes takes nobody's room."""
        waiting = (self._coalescers.get(route) or self._open(route)).waiting
        return not waiting and self.room.has(size)

    def lengths(self) -> dict[tuple[str, str], int]:
        """How many calls stand in each line that is not empty, by algorithm and target."""
        return {
            (route.algorithm, route.target): coalescer.waiting
            for route, coalescer in self._coalescers.items()
            if coalescer.waiting
        }

    def admit(self, waiting: Waiting) -> None:
        """Write down a call that goes into no line."""
        if isinstance(waiting.record, Record):
            waiting.record.open = True
            self._journal.admit(waiting.record.admitted)

    def close(self, waiting: Waiting, reply: Reply) -> Reply:
        """Write down its end; the reply, or another where that cannot be written."""
        try:
            self._settle([waiting], [reply])
        except OSError:
            return unrecorded()
        return reply

    def _open(self, route: Route) -> Coalescer:
        for old in [r for r in self._coalescers if (r.algorithm, r.target) == (
            route.algorithm, route.target
        )]:  # fmt: skip
            del self._coalescers[old]  # what it carries still arrives; new calls go to the new
        coalescer = Coalescer(
            partial(self._send, route), self._settle, self._settings,
            replicas=lambda: self._lanes(route.app) or route.replicas,
            batch=route.manifest.max_batch,
            launch=lambda calls: self._flushed_launch(route, calls), room=self.room,
        )  # fmt: skip
        self._coalescers[route] = coalescer
        return coalescer

    def _flushed_launch(self, route: Route, calls: list[Call]) -> asyncio.Future[Served] | None:
        try:
            self._journal.flush()  # ADMITTED lines of this frame, in one write
        except OSError as error:
            raise Unavailable("The usage of this call cannot be recorded.") from error
        return self._launch(route, calls)

    def _settle(self, frame: list[Waiting], replies: list[Reply]) -> None:
        ended = time.perf_counter()
        moment = time.time_ns() // 1_000_000
        metered: list[tuple[Taken, Settled]] = []
        for waiting, reply in zip(frame, replies, strict=True):
            record = waiting.record
            if not isinstance(record, Record):
                continue
            if record.trace is not None and record.route.plan is None:
                record.trace.attempt(waiting, record.route, reply, ended)
            status = status_of(error_from(reply.code, "")) if reply.code else 200
            micros = int((ended - record.started) * 1e6)
            if record.route is record.drawn:
                record.draw = (record.route.version, status, micros)
            if reply.code in record.kept_open:
                continue
            a = record.admitted
            settled = Settled(
                a.request_id, moment, a.key, a.department, a.algorithm, a.purpose, a.door,
                record.route.version, status, reply.rows, micros,
                max(0, int((waiting.left - waiting.began) * 1e6)), int(waiting.worked * 1e6),
                len(frame), *record.draw, int(waiting.waited * 1e6), int(waiting.modelled * 1e6),
                record.route.task.unit, reply.amount, record.scenario,
            )  # fmt: skip
            self._journal.settle(settled)
            if record.taken is not None:
                metered.append((record.taken, settled))
                record.taken = None
            if record.trace is not None:
                record.trace.end(settled, record.route, reply, ended)
            if self._sample is not None and not reply.more:
                self._sample(settled, record.route, waiting.call, reply)
        try:
            self._journal.flush()  # SERVED is in the kernel before the first byte leaves
        except OSError:
            for taken, _ in metered:  # the line may still come: the keeper counts it then
                self._give_back(taken)
            raise
        if metered and self.till is not None:
            self.till.settle(metered)

    def release(self, waiting: Waiting) -> None:
        """Give back what a call reserved that was never admitted; others give back when they end."""
        record = waiting.record
        if isinstance(record, Record) and record.taken is not None and not record.open:
            self._give_back(record.taken)
            record.taken = None

    def _give_back(self, taken: Taken) -> None:
        if self.till is not None:
            self.till.release(taken)

    async def keep_journal(self) -> None:
        """The timer's part of the journal, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._settings.journal_sync)
            try:
                self.refusals.write()
                self._journal.flush()
                if (file := self._journal.unsynced) is not None:
                    await loop.run_in_executor(None, os.fdatasync, file)
                    self._journal.synced()
            except OSError:
                log.exception("the journal cannot be written")
