"""What happens to a call, whatever door it came through."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Callable
from typing import NamedTuple

from citybrain.core.addresses import Proxies, is_loopback
from citybrain.core.errors import (
    CityBrainError,
    LevelTooHigh,
    NetworkNotAllowed,
    Refused,
    error_from,
)
from citybrain.core.names import Ref
from citybrain.core.schemas import Key
from citybrain.serving.denials import Denials, is_denial
from citybrain.serving.gateway.answered import Answered
from citybrain.serving.gateway.closing import Closing
from citybrain.serving.gateway.directory import Directory
from citybrain.serving.gateway.dispatch import Dispatch, Record
from citybrain.serving.gateway.fair_queue import EMERGENCY
from citybrain.serving.gateway.parts import in_parts
from citybrain.serving.gateway.permits import Permit
from citybrain.serving.gateway.repeats import Repeats
from citybrain.serving.gateway.snapshot import Route
from citybrain.serving.gateway.stops import Stops
from citybrain.serving.gateway.traces import Tracer
from citybrain.serving.gateway.waiting import Outcome, Waiting
from citybrain.serving.wire import Call, Reply
from citybrain.storage.journal import Admitted

log = logging.getLogger(__name__)


class Asked(NamedTuple):
    """Who asks what, and how: a call without its bytes."""

    key: Key
    ref: Ref
    door: str
    purpose: str = ""
    """As the caller states it; empty: the key's only one."""
    patience: float = math.inf
    """Seconds after which the caller gives up; a call that still waits then reaches no model."""
    gone: Callable[[], bool] | None = None
    """Whether the caller has hung up; such a call reaches no model either."""
    sticky: str = ""
    """Where calls are split, those of one key with the same word come to the same deployment."""
    traceparent: str = ""
    """Whose trace the call is part of (W3C Trace Context)."""
    repeat: str = ""
    """The `Idempotency-Key`: the same call under it is made once."""
    source: str = ""
    """The address that it comes from."""


class Gateway:
    """Purpose, route, features, coalescer, journal: the one data plane behind all doors."""

    def __init__(
        self, directory: Directory, dispatch: Dispatch, stops: Stops,
        tracer: Tracer | None = None, repeats: Repeats | None = None,
        denials: Denials | None = None, only: Proxies | None = None,
    ) -> None:  # fmt: skip
        """`only`: the proxies that alone may connect from other machines; None: everybody may."""
        self._only = only
        self._repeats = repeats
        self._denials = denials
        self.directory = directory
        self.closing = Closing()
        self._tracer = tracer
        self._dispatch = dispatch
        self._stops = stops
        self.new_request_id = dispatch.new_request_id
        self.room = dispatch.room

    def admit(self, peer: str, door: str) -> None:
        """NetworkNotAllowed for a peer whose keys would come in the clear, past the proxies."""
        if self._only is None or self._only.trusts(peer) or is_loopback(peer):
            return
        error = NetworkNotAllowed(
            "This door is open to its proxies alone.", hint="Use the address that has TLS."
        )
        self._deny(error, None, peer, "", door)
        raise error

    def identify(self, key: str, session: str, peer: str, forwarded: str, door: str) -> Key:
        """Who shows this key or session, from where it may; who may not is written down."""
        try:
            return self.directory.identify(key, session, peer, forwarded)
        except CityBrainError as error:
            holder = self.directory.holder(key, session)
            self._deny(error, holder, self.directory.source(peer, forwarded), "", door)
            raise

    def permit(self, asked: Asked) -> Permit:
        """What a call is allowed; who may not make it is written down."""
        try:
            return self.directory.permit(asked.key, asked.ref.algorithm, asked.purpose)
        except CityBrainError as error:
            self._deny_call(error, asked)
            raise

    def start(self, asked: Asked, call: Call, outcome: Outcome) -> tuple[Waiting, Route] | None:
        """Send a call on its way; `outcome` gets the reply once it is settled in the journal.

        None, and nothing done, where the way has stops: `infer` goes it.
        """
        route = None
        try:
            permit, route = self._admitted(asked, call)
            if asked.repeat or not permit.plain or self._stops.on_the_way(call, route, asked.ref):
                return None
            waiting = self._waiting(asked, call, route, permit, outcome)
            try:
                self._dispatch.submit(waiting, route)
            except BaseException:
                self._dispatch.release(waiting)
                raise
        except CityBrainError as error:
            self.count_refused(error, asked, route.version if route else 0)
            raise
        return waiting, route

    async def infer(self, asked: Asked, call: Call) -> Answered:
        """Answer one call, or raise the error that its door shows.

        Once admitted, a call is settled in the journal before this returns, answered or failed.
        """
        if asked.repeat and self._repeats is not None:
            _, route = self._admitted(asked, call)
            return await self._repeats.answer(asked, call, route, self.infer)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        started = self.start(asked, call, future)
        if started is None:
            permit, route = self._admitted(asked, call)
            waiting = self._waiting(asked, call, route, permit, future)
            try:
                return await self._stops.answer(waiting, future, route, asked.ref)
            except Refused as error:  # a pipeline's owner has no grant for a step
                self._deny_call(error, asked)
                raise
            finally:  # what was admitted gives it back when it is settled
                self._dispatch.release(waiting)
        # When the client hangs up this wait ends; the frame still runs, and settles the call.
        reply = await future
        if reply.code:
            raise error_from(reply.code, reply.body.decode(), reply.hint)
        waiting, route = started
        return Answered(
            reply, route, waiting.timing(), "", waiting.headers, level=waiting.level,
            waiting=waiting if reply.more else None,
        )  # fmt: skip

    def parts(self, answered: Answered) -> AsyncGenerator[Reply]:
        """All parts of an answer, the first included, and then the whole."""
        return in_parts(answered, self._dispatch)

    def count_refused(
        self, error: CityBrainError, asked: Asked | None = None, version: int = 0
    ) -> None:
        """Count what the ledger has no row of; names are counted only if they are registered."""
        department = asked.key.department if asked is not None else ""
        algorithm = self._registered(asked) if asked is not None else ""
        self._dispatch.refusals.count(department, algorithm, version, error.code)

    def _registered(self, asked: Asked) -> str:
        """The algorithm that is asked; empty: there is none of this name."""
        name = asked.ref.algorithm
        return name if name in self.directory.snapshot.known else ""

    def _deny_call(self, error: CityBrainError, asked: Asked) -> None:
        target, source, door = self._registered(asked), asked.source, asked.door
        self._deny(error, asked.key, source, target, door, asked.purpose)

    def _deny(
        self, error: CityBrainError, key: Key | None, source: str, target: str, door: str,
        purpose: str = "",
    ) -> None:  # fmt: skip
        if self._denials is not None and is_denial(error):
            self._denials.count(error, key, source, target, door, purpose=purpose)

    def _admitted(self, asked: Asked, call: Call) -> tuple[Permit, Route]:
        """What the call is allowed, and the deployment that it goes to."""
        self.closing.check()
        permit = self.permit(asked)
        ticket = f"{asked.key.id}/{asked.sticky}" if asked.sticky else call.request_id
        route = self.directory.route(asked.ref, ticket, asked.key.department)
        try:
            permit.check_level(route, self.directory.level(route))
        except LevelTooHigh as error:
            self._deny_call(error, asked)
            raise
        return permit, route

    def _waiting(
        self, asked: Asked, call: Call, route: Route, permit: Permit, outcome: Outcome
    ) -> Waiting:
        purpose = permit.purpose
        began = time.perf_counter()
        key = asked.key
        admitted = Admitted(
            call.request_id, time.time_ns() // 1_000_000, key.id, key.department, route.algorithm,
            purpose, asked.door,
        )  # fmt: skip
        trace = self._tracer.begin(asked.traceparent, began) if self._tracer else None
        drawn = route if self.directory.splits(asked.ref) else None
        till, taken = self._dispatch.till, None
        if permit.meters and till is not None:
            taken = till.take(permit, key.department, route.algorithm)
            if not permit.plain:
                call = call._replace(most=taken.most)
        return Waiting(
            call, outcome, Record(
                admitted, route, began, trace, drawn, taken=taken, scenario=permit.scenario
            ), key.department, purpose == EMERGENCY, asked.gone, began + asked.patience, began,
            headers=taken.headers if taken else (), level=self.directory.level(route),
        )  # fmt: skip


def problem_of(error: BaseException) -> CityBrainError:
    """Any exception as an error that may be shown; unexpected ones are logged and say nothing."""
    if isinstance(error, CityBrainError):
        return error
    log.error("a call failed unexpectedly", exc_info=error)
    return error_from("model_failed", "The call failed inside the platform.")
