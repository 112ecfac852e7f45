"""What the numbers of a forecasting model stand for, and the quantiles that follow from them."""

from __future__ import annotations

from typing import Literal

import numpy as np

from citybrain.core.tensors import Array

Head = Literal["quantiles", "point", "normal", "student-t"]
NUMBERS = {"point": 1, "normal": 2, "student-t": 3}


def to_quantiles(forecast: Array, head: Head, quantiles: list[float]) -> Array:
    """FP32[n,horizon,k] of a head to FP32[n,horizon,q].

    `point`: the value, the same for each quantile (its interval has no width). `normal`: mean and
    standard deviation. `student-t`: degrees of freedom, location and scale.
    """
    if head == "quantiles":
        return forecast
    if head == "point":
        return np.repeat(forecast, len(quantiles), axis=2)
    from scipy.special import ndtri, stdtrit

    levels = np.array(quantiles)
    parts = np.moveaxis(forecast.astype(np.float64)[..., None], 2, 0)
    *shape, centre, spread = parts
    standard = stdtrit(shape[0], levels) if shape else ndtri(levels)
    found: Array = (centre + spread * standard).astype(np.float32)
    return found
