"""`ModelStreamInfer`: many requests on one gRPC stream, answered in their order.

They go to the model as they come, several at once, so that a stream is as fast as many calls.
An error is the answer of its request, and the stream goes on; only who shows no good key is hung
up on. A request with the parameter `parts` is answered in parts, and then as a whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from citybrain.core.errors import NotSignedIn, ShuttingDown
from citybrain.serving.gateway.answered import Answered
from citybrain.serving.gateway.grpc_calls import Calls, end, error_of

IN_FLIGHT = 64
"""Requests of one stream that are read before the first of them is answered."""
PARTS = "parts"
Answers = asyncio.Queue[bytes | None]
"""What one request is answered with, one at a time, as the client reads it; None: that was all."""


class Stream:
    """The handler of `ModelStreamInfer`."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def answer(self, requests: AsyncIterator[bytes], context: Any) -> None:
        """Read, answer and write until the client has no more or goes; then nothing is left."""
        waiting: asyncio.Queue[Answers | None] = asyncio.Queue(IN_FLIGHT)
        closing = self._calls.closing
        try:
            self._calls.identify(context)  # a stranger's stream would take a place without end
            async with asyncio.TaskGroup() as group:
                group.create_task(_write(waiting, context))
                reader = group.create_task(self._read(requests, waiting, group, context))
                with closing.reading(reader):
                    await asyncio.wait({reader})
        except* NotSignedIn as refused:
            await end(context, error_of(refused.exceptions[0]))
        if closing.begun:
            await end(
                context, ShuttingDown("This gateway is being stopped.", hint="Connect again.")
            )

    async def _read(
        self, requests: AsyncIterator[bytes], waiting: asyncio.Queue[Answers | None],
        group: asyncio.TaskGroup, context: Any,
    ) -> None:  # fmt: skip
        """Until the client has no more, or the gateway ends: then what was read is answered."""
        try:
            async for body in requests:
                answers = Answers(1)
                group.create_task(self._answer(body, context, answers))
                await waiting.put(answers)
        except asyncio.CancelledError:
            if not self._calls.closing.begun:
                raise
        await waiting.put(None)

    async def _answer(self, body: bytes, context: Any, answers: Answers) -> None:
        from tritonclient.grpc import service_pb2 as pb

        request, request_id = pb.ModelInferRequest(), self._calls.new_request_id()
        try:
            request.ParseFromString(body)
            caller = self._calls.caller(request.model_name, request.model_version, context)
            parts = request.parameters[PARTS].bool_param if PARTS in request.parameters else False
            answered = await self._calls.infer(caller, body, context, request_id, parts=parts)
            async with aclosing(self._calls.parts(answered)) as replies:
                async for reply in replies:
                    answer = pb.ModelStreamInferResponse()
                    answer.infer_response.MergeFromString(reply.body)
                    _tell(answer, answered)
                    await answers.put(_named(answer, request_id, last=not reply.more))
        except NotSignedIn:
            raise
        except Exception as reason:
            error = error_of(reason)
            answer = pb.ModelStreamInferResponse(error_message=str(error))
            answer.infer_response.id = request.id
            answer.infer_response.parameters["citybrain-code"].string_param = error.code
            await answers.put(_named(answer, request_id, last=True))
        await answers.put(None)


def _tell(answer: Any, answered: Answered) -> None:
    """What an answer says of the algorithm, besides what the model said."""
    told, notice = answer.infer_response.parameters, answered.route.notice
    for name, value in notice.trailer if notice else ():
        told[name].string_param = value
    if answered.instead:
        told["x-fallback"].string_param = answered.route.target


def _named(answer: Any, request_id: str, *, last: bool) -> bytes:
    told = answer.infer_response.parameters
    told["x-request-id"].string_param = request_id
    told["triton_final_response"].bool_param = last
    return bytes(answer.SerializeToString())


async def _write(waiting: asyncio.Queue[Answers | None], context: Any) -> None:
    while answers := await waiting.get():
        while (answer := await answers.get()) is not None:
            await context.write(answer)
