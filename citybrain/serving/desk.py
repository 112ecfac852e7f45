"""The replica's work without Ray: a frame of calls in, a frame of replies out."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from citybrain.core.errors import CityBrainError, DeadlineExceeded, ModelFailed
from citybrain.core.tensors import Tensors
from citybrain.models.predictor import Answer, Predictor
from citybrain.models.task import row_count
from citybrain.serving.answer_cache import AnswerCache
from citybrain.serving.begun import Begun, BegunAnswers
from citybrain.serving.errand import Errand
from citybrain.serving.protocols import grpc, oip, task
from citybrain.serving.wire import DROP, NEXT, OVER, Call, Reply, error_reply

log = logging.getLogger(__name__)


class _Opened(NamedTuple):
    """A call that was read, and what of it is answered now."""

    call: Call
    request: Any
    tensors: Tensors | None
    """None: all is answered, and only to be told."""
    begun: Begun | None = None
    amount: float = 0.0
    """Of the task's own unit."""
    reply: Reply | None = None
    """What it is answered with, instead of by the model."""


class Desk:
    """Decodes every call, lets the predictor answer all in one batch, encodes each answer."""

    def __init__(self, predictor: Predictor, version: int) -> None:
        self._predictor = predictor
        seconds = predictor.package.manifest.answer_seconds
        self._model = AnswerCache(predictor, seconds) if seconds else predictor
        self._name = predictor.package.manifest.name
        self._version = str(version)
        self._begun = BegunAnswers()
        self.closed: CityBrainError | None = None
        """What every call is answered with, instead of by the model."""
        self.modelled = 0.0
        """Seconds that the model took for the newest frame."""

    def answer(self, calls: Sequence[Call], errand: Errand | None = None) -> list[Reply]:
        """One reply a call, in order; an error of one call is that call's alone.

        A call whose caller has given up does not reach the model.
        """
        self.modelled = 0.0
        errand = errand or Errand()
        if closed := self.closed:
            return [error_reply(closed.code, closed.message, closed.hint)] * len(calls)
        replies: list[Reply | None] = [None] * len(calls)
        opened: list[tuple[int, _Opened]] = []
        hurried = False
        for index, call in enumerate(calls):
            if call.codec == DROP:
                self._begun.drop(call.request_id)
                replies[index] = Reply(b"", -1, 0, "", "")
                continue
            try:
                errand.check()
                if call.deadline:
                    hurried = True
                    _refuse_late(call)
                one = self._open(call)
                if one.reply is None:
                    opened.append((index, one))
                else:
                    replies[index] = one.reply
            except CityBrainError as error:
                replies[index] = error_reply(error.code, error.message, error.hint)
            except Exception:
                log.exception("a body could not be decoded")
                replies[index] = _failed("The body could not be decoded.")
        if hurried:
            opened = self._in_time(calls, opened, replies)
        asked = [one.tensors for _, one in opened if one.tensors is not None]
        began = time.perf_counter()
        answers = iter(self._model.infer(asked, errand))
        self.modelled = time.perf_counter() - began
        for index, one in opened:
            answer = None if one.tensors is None else next(answers)
            replies[index] = self._told(one, answer)
        return [reply or _failed("The call was not answered.") for reply in replies]

    def _open(self, call: Call) -> _Opened:
        if call.codec == NEXT:
            begun = self._begun.find(call.request_id)
            piece = begun.next
            return _Opened(begun.call, begun.request, piece.inputs if piece else None, begun)
        request, tensors = self._decode(call)
        amount = self._predictor.task.measure(tensors)
        if call.most and (over := _over(call.most, row_count(tensors), amount)):
            return _Opened(call, request, None, reply=over)
        if call.parts and len(pieces := self._predictor.pieces(tensors)) > 1:
            rows = len(next(iter(tensors.values())))
            begun = Begun(call, request, rows, amount, pieces)
            if self._begun.keep(call.request_id, begun):
                return _Opened(call, request, pieces[0].inputs, begun, amount)
        return _Opened(call, request, tensors, None, amount)

    def _in_time(
        self,
        calls: Sequence[Call],
        opened: list[tuple[int, _Opened]],
        replies: list[Reply | None],
    ) -> list[tuple[int, _Opened]]:
        """Without those whose time ended while large bodies were decoded; they get their reply."""
        kept = []
        for index, one in opened:
            try:
                _refuse_late(calls[index])
                kept.append((index, one))
            except DeadlineExceeded as late:
                replies[index] = error_reply(late.code, late.message, late.hint)
                if one.begun is not None:
                    self._begun.drop(one.call.request_id)
        return kept

    def _told(self, one: _Opened, answer: Answer | None) -> Reply:
        """A call's reply: all of its answer, a part of it, or what went wrong."""
        begun = one.begun
        try:
            if isinstance(answer, CityBrainError):
                raise answer
            if begun is None:
                assert one.tensors is not None and answer is not None
                rows = len(next(iter(one.tensors.values())))
                return Reply(*self._encode(one, answer, {}), rows, "", "", one.amount)
            if answer is None:
                joined = self._predictor.task.joined(begun.pieces, begun.answers)
                self._begun.drop(one.call.request_id)
                return Reply(*self._encode(one, joined, {}), begun.rows, "", "", begun.amount)
            part = begun.take(answer)
            return Reply(
                *self._encode(one, answer, part), begun.rows, "", "", begun.amount, more=True
            )
        except CityBrainError as error:
            reply = error_reply(error.code, error.message, error.hint)
        except Exception:
            log.exception("an answer could not be encoded")
            reply = _failed("The answer could not be encoded.")
        self._begun.drop(one.call.request_id)
        return reply

    def _decode(self, call: Call) -> tuple[Any, Tensors]:
        if call.codec == "oip" and call.header_length >= 0:  # tensors stay where they are
            return oip.decode(call.body, call.header_length)
        body = bytes(call.body)  # a copy only where it lies in a large frame
        if call.codec == "oip":
            return oip.decode(body, -1)
        if call.codec == "grpc":
            return grpc.decode(body)
        return None, task.decode(body, call.content_type, self._predictor.task)

    def _encode(self, one: _Opened, outputs: Tensors, part: dict[str, float]) -> tuple[bytes, int]:
        call, request = one.call, one.request
        if call.codec == "oip":
            return oip.encode(request, outputs, self._name, self._version)
        if call.codec == "grpc":
            return grpc.encode(request, outputs, self._name, self._version, part), -1
        results = self._predictor.task.write(outputs)
        return task.encode(results, self._name, self._version, call.request_id, part), -1


def _over(most: tuple[int, float], rows: int, amount: float) -> Reply | None:
    """The reply to a call that is larger than what is reserved for it, which the model does not see."""
    if rows <= most[0] and amount <= most[1]:
        return None
    return error_reply(OVER, "The call is larger than what is reserved.", f"{rows} {amount!r}")


def _refuse_late(call: Call) -> None:
    if 0 < call.deadline <= time.perf_counter():
        raise DeadlineExceeded("The call's own time was over before the model was free.")


def _failed(message: str) -> Reply:
    return error_reply(ModelFailed.code, message, "")
