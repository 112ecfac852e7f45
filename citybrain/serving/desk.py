"""The replica's work without Ray: a frame of calls in, a frame of replies out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from citybrain.core.errors import CityBrainError, ModelFailed
from citybrain.core.tensors import Tensors
from citybrain.models.predictor import Predictor
from citybrain.serving.protocols import grpc, oip, task
from citybrain.serving.wire import Call, Reply, error_reply

log = logging.getLogger(__name__)


class Desk:
    """Decodes every call, lets the predictor answer all in one batch, encodes each answer."""

    def __init__(self, predictor: Predictor, version: int) -> None:
        self._predictor = predictor
        self._name = predictor.package.manifest.name
        self._version = str(version)

    def answer(self, calls: Sequence[Call]) -> list[Reply]:
        """One reply a call, in order; an error of one call is that call's alone."""
        replies: list[Reply | None] = [None] * len(calls)
        opened: list[tuple[int, Any, Tensors]] = []
        for index, call in enumerate(calls):
            try:
                opened.append((index, *self._decode(call)))
            except CityBrainError as error:
                replies[index] = error_reply(error.code, error.message, error.hint)
            except Exception:
                log.exception("a body could not be decoded")
                replies[index] = _failed("The body could not be decoded.")
        answers = self._predictor.infer([tensors for _, _, tensors in opened])
        for (index, request, tensors), answer in zip(opened, answers, strict=True):
            try:
                if isinstance(answer, CityBrainError):
                    raise answer
                body, header_length = self._encode(calls[index], request, answer)
                rows = len(next(iter(tensors.values())))
                replies[index] = Reply(body, header_length, rows, "", "")
            except CityBrainError as error:
                replies[index] = error_reply(error.code, error.message, error.hint)
            except Exception:
                log.exception("an answer could not be encoded")
                replies[index] = _failed("The answer could not be encoded.")
        return [reply or _failed("The call was not answered.") for reply in replies]

    def _decode(self, call: Call) -> tuple[Any, Tensors]:
        if call.codec == "oip":
            return oip.decode(call.body, call.header_length)
        if call.codec == "grpc":
            return grpc.decode(call.body)
        return None, task.decode(call.body, call.content_type, self._predictor.task)

    def _encode(self, call: Call, request: Any, outputs: Tensors) -> tuple[bytes, int]:
        if call.codec == "oip":
            return oip.encode(request, outputs, self._name, self._version)
        if call.codec == "grpc":
            return grpc.encode(request, outputs, self._name, self._version), -1
        results = self._predictor.task.write(outputs)
        return task.encode(results, self._name, self._version, call.request_id), -1


def _failed(message: str) -> Reply:
    return error_reply(ModelFailed.code, message, "")
