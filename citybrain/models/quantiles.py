"""Forecasts of many samples as arrays: what metrics and baselines of series share."""

from __future__ import annotations

from typing import Any

import numpy as np

from citybrain.core.tensors import Array


def middle(names: list[str]) -> str:
    """The name of the quantile nearest to the median."""
    return min(names, key=lambda name: abs(float(name) - 0.5))


def matrix(items: list[Any], name: str) -> Array:
    """FP64[items, horizon] of one quantile of these `Forecast`s."""
    return np.array([item.quantiles[name] for item in items], np.float64)


def observed(truths: list[Any]) -> Array:
    """FP64[items, horizon] of what came true."""
    return matrix(truths, "0.5")


def median_errors(truths: list[Any], answers: list[Any]) -> Array:
    """FP64[items, horizon]: answer less truth."""
    name = middle(list(answers[0].quantiles))
    errors: Array = matrix(answers, name) - observed(truths)
    return errors


def repeated(sample: Any, task: Any, values: Array) -> Any:
    """A `Forecast` that says these values in every quantile."""
    truth = sample.truth
    names = [str(quantile) for quantile in task.options.quantiles]
    return task.Output(
        quantiles={name: values.tolist() for name in names},
        horizon=truth.horizon,
        step_seconds=truth.step_seconds,
    )
