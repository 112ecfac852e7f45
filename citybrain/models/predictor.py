"""One algorithm, ready to answer: the plain class that a Ray Serve replica wraps."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from citybrain.core.errors import Cancelled, CityBrainError, ModelFailed, RemoteDown, TooLarge
from citybrain.core.tensors import Signature, Tensors, is_finite, stacked
from citybrain.models.package import Package
from citybrain.models.runtime import RUNTIMES, Runtime, Stop
from citybrain.models.task import Piece, Task, open_task

log = logging.getLogger(__name__)

Answer = Tensors | CityBrainError
MAX_ROWS = 4096


class Predictor:
    """Answers batches of requests; each request gets its own rows or its own error."""

    def __init__(self, package: Package, task: Task, runtime: Runtime) -> None:
        self.package = package
        self.task = task
        self.runtime = runtime
        self.signature: Signature = task.signature()

    @classmethod
    def open(cls, folder: Path, *, digest: str = "", threads: int = 1) -> Predictor:
        """Load a package folder; with a digest, only if every byte is the registered one."""
        package = Package.open(folder, digest=digest)
        task = open_task(package.manifest, folder)
        runtime = RUNTIMES.get(package.manifest.runtime)
        runtime.load(package, threads=threads)
        return cls(package, task, runtime)

    def warm_up(self) -> None:
        """Answer the task's own example once, so that the first caller does not pay for it."""
        answer = self.infer([self.task.read(self.task.example())])[0]
        if isinstance(answer, CityBrainError):
            raise answer

    def predict(self, items: list[Any]) -> list[Any]:
        """Typed items in, typed results out: for tests, examples and notebooks."""
        answer = self.infer([self.task.read(items)])[0]
        if isinstance(answer, CityBrainError):
            raise answer
        return self.task.write(answer)

    def pieces(self, request: Tensors) -> list[Piece]:
        """A request as smaller ones, to be answered one after another; one: as it came."""
        self._check(request)
        return self.task.pieces(request, self.package.manifest.max_batch)

    def infer(self, requests: Sequence[Tensors], stop: Stop | None = None) -> list[Answer]:
        """Task tensors of many requests to task outputs of each, in order.

        Requests whose model tensors agree in all but the batch axis share model calls of at
        most `max_batch` rows, so that an answer never depends on who else asked. What is not
        answered when another thread asks `stop` is Cancelled.
        """
        stop = stop or Stop()
        answers: list[Answer | None] = [None] * len(requests)
        groups: dict[tuple[Any, ...], list[tuple[int, Tensors]]] = {}
        for index, inputs in enumerate(requests):
            try:
                stop.check()
                self._check(inputs)
                prepared = self.task.prepare(inputs)
            except CityBrainError as error:
                answers[index] = error
                continue
            except Exception:
                answers[index] = self._failed("preparing the input")
                continue
            shape = tuple((k, v.shape[1:], v.dtype.str) for k, v in sorted(prepared.items()))
            groups.setdefault(shape, []).append((index, prepared))
        for group in groups.values():
            self._run_group(group, requests, answers, stop)
        return [answer if answer is not None else self._failed("the call") for answer in answers]

    def _check(self, inputs: Tensors) -> None:
        rows = self.signature.check_inputs(inputs)
        if rows > MAX_ROWS:
            raise TooLarge(f"One call takes at most {MAX_ROWS} rows, not {rows}.")

    def _run_group(
        self,
        group: list[tuple[int, Tensors]],
        requests: Sequence[Tensors],
        answers: list[Answer | None],
        stop: Stop,
    ) -> None:
        try:
            outputs = self._run([prepared for _, prepared in group], stop)
        except (RemoteDown, Cancelled) as error:  # nobody's input, and a try costs a time-out
            for index, _ in group:
                answers[index] = error
            return
        except Exception as error:
            if len(group) > 1:  # find whose input it was; the others get their answers
                for member in group:
                    self._run_group([member], requests, answers, stop)
                return
            shown = error if isinstance(error, CityBrainError) else self._failed("the model")
            answers[group[0][0]] = shown
            return
        start = 0
        for index, prepared in group:
            rows = len(next(iter(prepared.values())))
            mine = {name: array[start : start + rows] for name, array in outputs.items()}
            start += rows
            try:
                stop.check()
                answers[index] = self._checked(self.task.finish(mine, requests[index]))
            except CityBrainError as error:
                answers[index] = error
            except Exception:
                answers[index] = self._failed("finishing the answer")

    def _checked(self, outputs: Tensors) -> Tensors:
        if self.task.finite:
            for name, array in outputs.items():
                if array.dtype.kind == "f" and not is_finite(array):
                    raise ModelFailed(f"The model answered {name!r} with NaN or infinity.")
        return outputs

    def _run(self, batches: list[Tensors], stop: Stop) -> Tensors:
        """One or more model calls for rows of equal shape; the outputs joined again."""
        if len(batches) == 1:
            joined = batches[0]
        else:
            joined = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
        rows = len(next(iter(joined.values())))
        limit = self.package.manifest.max_batch
        if rows <= limit:
            return stop.infer(self.runtime, joined)
        parts = [
            stop.infer(self.runtime, {name: a[i : i + limit] for name, a in joined.items()})
            for i in range(0, rows, limit)
        ]
        return {name: stacked([part[name] for part in parts]) for name in parts[0]}

    def _failed(self, where: str) -> ModelFailed:
        # The reason goes to the replica's log; a caller must not learn paths or shapes inside.
        name = self.package.manifest.name
        log.exception("%s failed in %s", name, where)  # noqa: LOG004 - called while one is handled
        return ModelFailed(
            f"{name} failed in {where}.",
            hint=f"Its developers see why with: citybrain logs {name}",
        )
