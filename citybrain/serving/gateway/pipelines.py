"""A call goes through the steps of a pipeline: all its items together, each step in one call."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from citybrain.core.errors import BadMedia, CityBrainError, InvalidInput, PipelineFailed
from citybrain.core.names import Ref
from citybrain.core.tensors import bytes_array
from citybrain.models.pipeline import INPUT, Ensemble, Missing, Node, Pipeline, Step, Switch, filled
from citybrain.serving.gateway.snapshot import Route
from citybrain.serving.protocols import grpc, oip
from citybrain.serving.protocols import task as task_protocol
from citybrain.serving.wire import Call, Reply

Ask = Callable[[str, Ref, list[Any] | None], Awaitable[list[Any]]]
"""An algorithm's results for a step's items; None: for the caller's own files, as they came."""
Row = dict[str, Any]
"""What references of one item mean: `input`, and the answers of steps by name."""


class Passage:
    """One call's way through one pipeline."""

    def __init__(self, plan: Pipeline, ask: Ask) -> None:
        self._plan = plan
        self._ask = ask
        self.took: list[tuple[str, float]] = []
        """Each step that ran, and its seconds."""

    async def answer(self, items: list[Any] | None) -> list[Any]:
        """One answer an item; None: the caller sent files, which only `$input` as a whole means.

        Errors of a step's algorithm keep their code and name the step; PipelineFailed is for what
        its own plan gets wrong.
        """
        rows: list[Row] = [{}] if items is None else [{"input": item} for item in items]
        last, rows = await self._steps(self._plan.steps, rows, None)
        if self._plan.answer is None:
            return last
        return [_filled(self._plan.answer, row, "answer") for row in rows]

    async def _steps(
        self, steps: list[Step], rows: list[Row], before: list[Any] | None
    ) -> tuple[list[Any], list[Row]]:
        """The last step's answers, and the rows with the answers of all."""
        for step in steps:
            began = time.perf_counter()
            before = await self._node(step, rows, before, step.name)
            self.took.append((step.name, time.perf_counter() - began))
            if len(before) != len(rows):  # as many files came as nobody had counted yet
                rows = [dict(rows[0]) for _ in before]
            rows = [row | {step.name: answer} for row, answer in zip(rows, before, strict=True)]
        assert before is not None
        return before, rows

    async def _node(
        self, node: Node, rows: list[Row], before: list[Any] | None, where: str
    ) -> list[Any]:
        if node.switch:
            return await self._switch(node.switch, rows, before, where)
        if node.ensemble:
            return await self._ensemble(node.ensemble, rows, before, where)
        if node.steps:
            return (await self._steps(node.steps, rows, before))[0]
        if not node.algorithm:
            return [_filled(node.value, row, where) for row in rows]
        return await self._algorithm(node, rows, before, where)

    async def _algorithm(
        self, node: Node, rows: list[Row], before: list[Any] | None, where: str
    ) -> list[Any]:
        items: list[Any] | None
        if node.input is None and before is not None:
            items = before
        elif node.input in (None, INPUT) and "input" not in rows[0]:
            items = None
        else:
            template = INPUT if node.input is None else node.input
            items = [_filled(template, row, where) for row in rows]
        try:
            answers = await self._ask(where, node.ref, items)
        except CityBrainError as error:
            raise type(error)(
                f"Step {where} ({node.ref}): {error.message}", hint=error.hint
            ) from error
        if items is not None and len(answers) != len(items):
            raise PipelineFailed(f"Step {where} ({node.ref}) gave another number of answers.")
        return answers

    async def _switch(
        self, switch: Switch, rows: list[Row], before: list[Any] | None, where: str
    ) -> list[Any]:
        cases: dict[str | None, list[int]] = {}
        for index, row in enumerate(rows):
            chosen = str(_filled(switch.by, row, where))
            cases.setdefault(chosen if chosen in switch.cases else None, []).append(index)
        if len(cases) > 1 and "input" not in rows[0]:
            raise InvalidInput(
                f"Step {where} sends these files different ways.", hint="Send one file a call."
            )
        found: list[Any] = [None] * len(rows)

        async def branch(case: str | None, indexes: list[int]) -> None:
            node = switch.otherwise if case is None else switch.cases[case]
            if node is None:
                return
            name = f"{where}.{'otherwise' if case is None else case}"
            mine = None if before is None else [before[index] for index in indexes]
            answers = await self._node(node, [rows[index] for index in indexes], mine, name)
            for index, answer in zip(indexes, answers, strict=True):
                found[index] = answer

        await _together([branch(case, indexes) for case, indexes in cases.items()])
        return found

    async def _ensemble(
        self, ensemble: Ensemble, rows: list[Row], before: list[Any] | None, where: str
    ) -> list[Any]:
        answers = await _together(
            [
                self._node(member, rows, before, f"{where}.{number}")
                for number, member in enumerate(ensemble.members)
            ]
        )
        weights = ensemble.weights or [1.0] * len(ensemble.members)
        combine: dict[str, Callable[[list[Any], list[float]], Any]] = {
            "mean": _mean, "majority": _majority, "list": lambda found, _: found,
        }  # fmt: skip
        return [
            combine[ensemble.combine](list(found), weights) for found in zip(*answers, strict=True)
        ]


async def _together(work: list[Any]) -> list[Any]:
    """Their results, in order; the first error ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def _filled(template: Any, row: Row, where: str) -> Any:
    try:
        return filled(template, row)
    except Missing as error:
        if "input" not in row and "$input" in str(error):
            raise InvalidInput(
                f"Step {where} needs fields of the input, and files have none.",
                hint="Send JSON items.",
            ) from error
        raise PipelineFailed(f"Step {where} refers to {error}.") from error


def _mean(answers: list[Any], weights: list[float]) -> Any:
    """Numbers averaged at every place; a label becomes the one that scores best then."""
    first = answers[0]
    if isinstance(first, bool) or not isinstance(first, int | float | dict | list):
        return first if all(answer == first for answer in answers) else _majority(answers, weights)
    if isinstance(first, dict):
        keys = [key for key in first if all(isinstance(a, dict) and key in a for a in answers)]
        found = {key: _mean([answer[key] for answer in answers], weights) for key in keys}
        scores = found.get("probabilities")
        named = isinstance(found.get("label"), str) and not found.get("abstained")
        if named and isinstance(scores, dict) and scores:
            found["label"] = max(scores, key=lambda label: scores[label])
        return found
    if isinstance(first, list):
        if any(not isinstance(a, list) or len(a) != len(first) for a in answers):
            raise PipelineFailed("The answers of an ensemble have lists of different lengths.")
        return [_mean(list(values), weights) for values in zip(*answers, strict=True)]
    if any(isinstance(a, bool) or not isinstance(a, int | float) for a in answers):
        raise PipelineFailed("The answers of an ensemble differ in their form.")
    return sum(a * w for a, w in zip(answers, weights, strict=True)) / sum(weights)


def _majority(answers: list[Any], weights: list[float]) -> Any:
    """The answer whose label most weight stands behind; of those that agree, the first."""
    votes: dict[str, float] = defaultdict(float)
    for answer, weight in zip(answers, weights, strict=True):
        votes[_vote(answer)] += weight
    best = max(votes, key=lambda vote: votes[vote])
    return next(answer for answer in answers if _vote(answer) == best)


def _vote(answer: Any) -> str:
    return str(answer.get("label", answer) if isinstance(answer, dict) else answer)


async def through(passage: Passage, call: Call, route: Route) -> Reply:
    """A call's bytes, whatever its codec, through a pipeline, and the bytes of its answer."""
    name, version = route.algorithm, str(route.version)
    task: Any = route.task
    if call.codec == "task":
        kind = call.content_type.partition(";")[0].strip().lower()
        items = None
        if kind in ("", "application/json"):
            items = task_protocol.items(call.body, task)
            task.check(items)
        elif not task.options.media:
            raise BadMedia(f"{name} does not take {kind[:80]!r}.", hint="It takes JSON.")
        results = await passage.answer(items)
        body = task_protocol.encode(results, name, version, call.request_id)
        return Reply(body, -1, len(results), "", "")
    protocol: Any = grpc if call.codec == "grpc" else oip
    request, tensors = (
        grpc.decode(call.body)
        if call.codec == "grpc"
        else oip.decode(call.body, call.header_length)
    )
    route.signature.check_inputs(tensors)
    results = await passage.answer(task.items(tensors))
    outputs = {"output": bytes_array([msgspec.json.encode(result) for result in results])}
    encoded = protocol.encode(request, outputs, name, version)
    body, header_length = (encoded, -1) if call.codec == "grpc" else encoded
    return Reply(body, header_length, len(results), "", "")
