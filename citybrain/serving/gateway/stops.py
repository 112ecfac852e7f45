"""Calls that do not go straight to one deployment: features, fallbacks, a shadow, a pipeline's steps."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import orjson

from citybrain.core.errors import (
    CityBrainError,
    DeadlineExceeded,
    ModelFailed,
    NotReady,
    Overloaded,
    PipelineFailed,
    QuotaExceeded,
    RemoteDown,
    Unavailable,
    error_from,
)
from citybrain.core.names import Ref
from citybrain.core.schemas.traffic import Traffic
from citybrain.models.pipeline import Pipeline
from citybrain.serving.gateway.answered import Answered
from citybrain.serving.gateway.directory import Directory
from citybrain.serving.gateway.dispatch import Dispatch, Record
from citybrain.serving.gateway.permits import Permit, with_meters
from citybrain.serving.gateway.pipelines import Passage, through
from citybrain.serving.gateway.snapshot import Route
from citybrain.serving.gateway.waiting import Waiting
from citybrain.serving.protocols import task as task_protocol
from citybrain.serving.rollout.shadow import ShadowBook
from citybrain.serving.rollout.traffic import is_shadowed
from citybrain.serving.wire import OVER, Call, Reply, error_reply

log = logging.getLogger(__name__)

FALLEN = frozenset(
    error.code
    for error in (
        ModelFailed, PipelineFailed, NotReady, DeadlineExceeded, Overloaded, Unavailable,
        RemoteDown,
    )
)  # fmt: skip
"""What another deployment may answer better."""
STEP = "step"
"""The door of a pipeline's steps, in the ledger."""
MAX_NESTED = 4
Histories = Callable[[str, list[str]], Awaitable[list[Any]]]


class Stops:
    """What a call may meet on its way, and the way itself."""

    def __init__(
        self, directory: Directory, dispatch: Dispatch, histories: Histories, book: ShadowBook
    ) -> None:
        self._directory = directory
        self._dispatch = dispatch
        self._histories = histories
        self._book = book
        self._tasks: set[asyncio.Task[None]] = set()

    def on_the_way(self, call: Call, route: Route, ref: Ref) -> bool:
        """Whether a call meets any."""
        if route.plan is not None or (call.codec == "task" and route.feature_service):
            return True
        traffic = self._traffic(ref)
        return traffic is not None and bool(traffic.fallback or traffic.shadow)

    async def answer(
        self, waiting: Waiting, future: asyncio.Future[Reply], route: Route, ref: Ref,
        depth: int = 0,
    ) -> Answered:  # fmt: skip
        """Go the whole way; `future` is the outcome of `waiting`, `depth` the pipelines around it."""
        if waiting.call.codec == "task" and route.feature_service:
            waiting.call = await self._with_features(waiting.call, route)
            if isinstance(waiting.record, Record) and waiting.record.trace is not None:
                waiting.record.trace.features(time.perf_counter(), route.feature_service)
        traffic = self._traffic(ref) or Traffic(algorithm=ref.algorithm)
        return await self._rolled(waiting, future, route, traffic, depth)

    def _traffic(self, ref: Ref) -> Traffic | None:
        return None if ref.target else self._directory.snapshot.traffic.get(ref.algorithm)

    async def _rolled(
        self, first: Waiting, future: asyncio.Future[Reply], route: Route, traffic: Traffic,
        depth: int,
    ) -> Answered:  # fmt: skip
        """With a shadow beside it, and fallbacks behind it."""
        asides = (self._directory.aside(route.algorithm, t) for t in traffic.fallback)
        routes = [route, *(aside for aside in asides if aside and aside is not route)]
        record, waiting, end = first.record, first, first.deadline
        assert isinstance(record, Record)
        number, again = 0, False
        while True:
            one, spare = routes[number], number + 1 < len(routes)
            if number or again:
                future = asyncio.get_running_loop().create_future()
                waiting = replace(first, outcome=future, timer=None, settled=False)
            again = False
            record.route, record.kept_open = one, FALLEN | {OVER} if spare else frozenset((OVER,))
            waiting.deadline = end
            if spare and traffic.fallback_ms:
                waiting.deadline = min(end, time.perf_counter() + traffic.fallback_ms / 1e3)
            try:
                self._submit(waiting, one, depth)
            except Overloaded as error:
                reply = error_reply(error.code, error.message, error.hint)
                self._dispatch.admit(waiting)
                future.set_result(self._dispatch.close(waiting, reply))
            else:
                if not number and is_shadowed(traffic, first.call.request_id):
                    self._shadow(waiting, future, one, traffic)
            reply = await future
            if again := reply.code == OVER:
                first.call = self._reserved(waiting, record, reply)
            elif spare and reply.code in FALLEN:
                number += 1
            else:
                break
        if reply.code:
            raise error_from(reply.code, reply.body.decode(), reply.hint)
        instead = "" if one is route else route.target
        level = self._directory.level(one)
        return Answered(
            reply, one, waiting.timing(), instead, first.headers, level=level,
            waiting=waiting if reply.more else None,
        )  # fmt: skip

    def _reserved(self, waiting: Waiting, record: Record, reply: Reply) -> Call:
        """A call that turned out larger than was thought, with as much reserved as it needs."""
        till, taken = self._dispatch.till, record.taken
        assert till is not None
        assert taken is not None
        rows, amount = reply.hint.split()
        try:
            till.extend(taken, int(rows), float(amount))
        except QuotaExceeded as error:
            self._dispatch.close(waiting, error_reply(error.code, error.message, error.hint))
            raise
        return waiting.call._replace(most=taken.most)

    def _shadow(
        self, first: Waiting, answered: asyncio.Future[Reply], route: Route, traffic: Traffic
    ) -> None:
        """Send a copy aside, if the shadow has nothing else to do; nobody waits for it."""
        aside = self._directory.aside(route.algorithm, traffic.shadow)
        if first.call.parts:  # a part of an answer and a whole one cannot be compared
            return
        if aside is None or aside is route or not self._dispatch.is_free(aside, first.size):
            return
        if aside.plan is not None:  # its steps would be real calls; whoever asks for it is refused
            return
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        copy = Waiting(first.call, future, None)
        self._dispatch.submit(copy, aside)

        async def compare() -> None:
            shadow = await future
            if isinstance(first.record, Record) and first.record.trace is not None:
                first.record.trace.attempt(copy, aside, shadow, time.perf_counter(), shadow=True)
            reply = await asyncio.shield(answered)
            answers = (route.version, reply, aside.version, shadow)
            try:
                await asyncio.to_thread(self._book.write, route.algorithm, copy.call, answers)
            except OSError:
                log.exception("a shadow's answer could not be kept")

        self._spawn(compare())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _submit(self, waiting: Waiting, route: Route, depth: int) -> None:
        """To a deployment's line, or into a pipeline."""
        if route.plan is None:
            self._dispatch.submit(waiting, route)
        else:
            self._spawn(self._compose(waiting, route, route.plan, depth))

    async def _compose(self, waiting: Waiting, route: Route, plan: Pipeline, depth: int) -> None:
        """A pipeline's answer, or its error, as one call of the ledger; so is each step's."""
        self._dispatch.admit(waiting)
        passage = Passage(plan, partial(self._step, waiting, route, depth))
        try:
            patience = waiting.deadline - time.perf_counter()
            async with asyncio.timeout(None if patience == math.inf else patience):
                reply = await through(passage, waiting.call, route)
        except TimeoutError:
            late = DeadlineExceeded("The call's own time was over before its answer.")
            reply = error_reply(late.code, late.message, late.hint)
        except CityBrainError as error:
            reply = error_reply(error.code, error.message, error.hint)
        except Exception:
            log.exception("%s failed", route.algorithm)
            reply = error_reply(ModelFailed.code, f"{route.algorithm} failed.", "")
        waiting.left = waiting.began
        waiting.steps = tuple(passage.took)
        reply = self._dispatch.close(waiting, reply)
        waiting.outcome.set_result(reply)

    async def _step(
        self, parent: Waiting, pipeline: Route, depth: int, where: str, ref: Ref,
        items: list[Any] | None,
    ) -> list[Any]:  # fmt: skip
        """Ask the algorithm of a step, in the name of who called the pipeline."""
        if depth + 1 > MAX_NESTED:
            raise PipelineFailed(f"Pipelines call one another more than {MAX_NESTED} deep.")
        request_id = self._dispatch.new_request_id()
        call = parent.call._replace(codec="task", request_id=request_id, parts=False)
        if items is not None:
            body = orjson.dumps({"inputs": items})
            call = call._replace(body=body, header_length=-1, content_type="application/json")
        route = self._directory.route(ref, parent.call.request_id)
        assert isinstance(parent.record, Record)
        a = parent.record.admitted
        self._directory.may_compose(pipeline.manifest.owner, ref.algorithm, a.purpose)
        admitted = a._replace(
            request_id=call.request_id, at_ms=time.time_ns() // 1_000_000,
            algorithm=route.algorithm, door=STEP,
        )  # fmt: skip
        began, trace = time.perf_counter(), parent.record.trace
        # A step counts against the caller's limits like a call of its own.
        open_permit = Permit(a.purpose, "", "", 0, math.inf)
        permit = with_meters(self._directory.snapshot, a.department, ref.algorithm, open_permit)
        till, taken = self._dispatch.till, None
        if permit.meters and till is not None:
            taken = till.take(permit, a.department, route.algorithm)
            call = call if permit.plain else call._replace(most=taken.most)
        drawn = route if self._directory.splits(ref) else None
        record = Record(
            admitted, route, began, trace.child(began, where) if trace else None, drawn,
            taken=taken, scenario=parent.record.scenario,
        )  # fmt: skip
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        waiting = Waiting(
            call, future, record, parent.department, parent.urgent, parent.gone, parent.deadline
        )
        try:
            answered = await self.answer(waiting, future, route, ref, depth + 1)
        finally:
            self._dispatch.release(waiting)
        return list(orjson.loads(answered.reply.body)["results"])

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
