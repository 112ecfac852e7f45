"""Run a scenario over one algorithm: metrics with intervals, slices, baseline, champion, gate.

Intervals are percentile bootstrap intervals over items (Efron & Tibshirani 1993), 95 %.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from citybrain.core.errors import BadData, CityBrainError
from citybrain.core.tensors import Tensors
from citybrain.evaluation.gate import decide
from citybrain.evaluation.metric import BASELINES, METRICS
from citybrain.evaluation.scenario import Scenario
from citybrain.models.predictor import Predictor
from citybrain.models.recipe import Progress, quiet
from citybrain.models.task import Sample

RESAMPLES = 200
ROWS_AT_ONCE = 64
TIMED = 30
SHOWN = 20
Predict = Callable[[list[Tensors]], list[Any]]


@dataclass(frozen=True)
class Scores:
    """Metric values of one set of answers."""

    whole: dict[str, dict[str, float]]
    slices: dict[str, dict[str, float]]


def evaluate(
    scenario: Scenario, predictor: Predictor, samples: list[Sample], *,
    champion: Predictor | None = None, progress: Progress = quiet, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """The report of one version: a plain dict that JSON can hold."""
    if not samples:
        raise BadData("The data set holds no items.")
    truths = [sample.truth for sample in samples]
    task = predictor.task
    progress(0.0, f"answering {len(samples)} items")
    answers = _answers(predictor, samples, lambda done: progress(0.6 * done, "answering"))
    scores = _scores(scenario, samples, truths, answers, seed, progress)
    baseline_answers = BASELINES.get(scenario.baseline).answer(samples, task)
    baseline = {m: METRICS.get(m).score(truths, baseline_answers) for m in scenario.metrics}
    easy = _sliced(scenario, samples, truths, baseline_answers)
    champion_values: dict[str, float] = {}
    champion_slices: dict[str, dict[str, float]] = {}
    if champion is not None:
        theirs = _answers(champion, samples, lambda _: None)
        champion_values = {m: METRICS.get(m).score(truths, theirs) for m in scenario.metrics}
        champion_slices = _sliced(scenario, samples, truths, theirs)
    progress(0.95, "timing single calls")
    others = {"baseline": {"": baseline, **easy},
              "champion": {"": champion_values, **champion_slices}}  # fmt: skip
    figures = {"": {name: found["value"] for name, found in scores.whole.items()}}
    rules = decide(scenario.gate, figures | scores.slices, others)
    return {
        "scenario": scenario.name,
        "task": scenario.task,
        "items": len(samples),
        "metrics": scores.whole,
        "slices": scores.slices,
        "baseline": {"name": scenario.baseline, "metrics": baseline},
        "champion": champion_values,
        "latency_ms": _latency(predictor, samples),
        "gate": rules,
        "passed": all(rule["passed"] for rule in rules),
        "worst": _worst(scenario, samples, truths, answers),
    }


def _answers(
    predictor: Predictor, samples: list[Sample], report: Callable[[float], None]
) -> list[Any]:
    answers: list[Any] = []
    for start in range(0, len(samples), ROWS_AT_ONCE):
        part = samples[start : start + ROWS_AT_ONCE]
        for sample, answer in zip(part, predictor.infer([s.inputs for s in part]), strict=True):
            if isinstance(answer, CityBrainError):
                raise BadData(f"{sample.name or 'an item'}: {answer.message}") from answer
            answers += predictor.task.write(answer)
        report(min(1.0, (start + ROWS_AT_ONCE) / len(samples)))
    return answers


def _scores(
    scenario: Scenario, samples: list[Sample], truths: list[Any], answers: list[Any],
    seed: int, progress: Progress,
) -> Scores:  # fmt: skip
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(truths), (RESAMPLES, len(truths)))
    whole: dict[str, dict[str, float]] = {}
    for number, name in enumerate(scenario.metrics):
        metric = METRICS.get(name)
        resampled = []
        for count, draw in enumerate(draws):
            if count % 20 == 0:
                share = (number + count / RESAMPLES) / len(scenario.metrics)
                progress(0.6 + 0.35 * share, f"{name}: interval")
            resampled.append(metric.score([truths[i] for i in draw], [answers[i] for i in draw]))
        low, high = np.nanpercentile(resampled, [2.5, 97.5])
        whole[name] = {
            "value": metric.score(truths, answers), "low": float(low), "high": float(high),
            "greater_is_better": float(metric.greater_is_better),
        }  # fmt: skip
    return Scores(whole, _sliced(scenario, samples, truths, answers))


def _sliced(
    scenario: Scenario, samples: list[Sample], truths: list[Any], answers: list[Any]
) -> dict[str, dict[str, float]]:
    """Every metric on every slice, `tag=value`."""
    slices: dict[str, dict[str, float]] = {}
    for tag in scenario.slices:
        groups: dict[str, list[int]] = {}
        for index, sample in enumerate(samples):
            if tag in sample.tags:
                groups.setdefault(f"{tag}={sample.tags[tag]}", []).append(index)
        for label, members in sorted(groups.items()):
            slices[label] = {
                name: METRICS.get(name).score(
                    [truths[i] for i in members], [answers[i] for i in members]
                )
                for name in scenario.metrics
            } | {"items": float(len(members))}
    return slices


def _latency(predictor: Predictor, samples: list[Sample]) -> dict[str, float]:
    """Milliseconds of single calls in this process, after the batch run has warmed it up."""
    times = []
    for sample in samples[:TIMED]:
        start = time.perf_counter()
        predictor.infer([sample.inputs])
        times.append((time.perf_counter() - start) * 1000)
    return {
        "p50": float(np.percentile(times, 50)),
        "p95": float(np.percentile(times, 95)),
    }


def _worst(
    scenario: Scenario, samples: list[Sample], truths: list[Any], answers: list[Any]
) -> list[dict[str, Any]]:
    """The items with the worst value of the first metric, for people to look at."""
    metric = METRICS.get(scenario.metrics[0])
    values = [metric.score([t], [a]) for t, a in zip(truths, answers, strict=True)]
    sign = 1 if metric.greater_is_better else -1
    order = sorted(range(len(values)), key=lambda i: sign * values[i])[:SHOWN]
    return [
        {"item": samples[i].name, "value": float(values[i]), "tags": samples[i].tags} for i in order
    ]
