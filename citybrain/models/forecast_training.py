"""How the forecast network is trained: windows of a matrix, pinball loss, a budget of seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from citybrain.core.shelf import needs
from citybrain.core.tensors import Array
from citybrain.models.forecast_network import build_network

FEWEST = 60
RISE = 0.1


@dataclass
class Windows:
    """Where windows lie in a matrix: `origins` INT64[n, 2] are series and first forecast step."""

    filled: Array
    values: Array
    calendar: Array | None
    origins: Array


@dataclass(frozen=True)
class Plan:
    """How long and how fast to learn."""

    context: int
    horizon: int
    quantiles: list[float]
    shortest: int
    steps: int
    deadline: float
    """Of the monotonic clock; FEWEST steps are taken in any case."""
    seed: int
    batch: int = 512
    rate: float = 2e-3


class Pace:
    """How far the training is, and the rate there: a short rise, then half a cosine (one cycle).

    Where the machine is too slow for all steps, the cycle is drawn together so that it ends.
    """

    def __init__(self, steps: int, deadline: float) -> None:
        self.step = 0
        self.share = 0.0
        self._planned = self._total = steps
        self._began = time.monotonic()
        self._deadline = deadline

    @property
    def over(self) -> bool:
        """The planned steps are done, or the time is up."""
        late = self.step >= FEWEST and time.monotonic() > self._deadline
        return self.step >= self._total or late

    def rate(self) -> float:
        """The learning rate as a share of the highest."""
        if self.share < RISE:
            return 0.05 + 0.95 * self.share / RISE
        return 0.5 + 0.5 * math.cos(math.pi * (self.share - RISE) / (1 - RISE))

    def tick(self) -> None:
        """One step is done."""
        self.step += 1
        self.share += (1 - self.share) / max(1, self._total - self.step + 1)
        if self.step % 20 == 0:
            now = time.monotonic()
            speed = self.step / max(1e-9, now - self._began)
            reachable = self.step + int(speed * max(0.0, self._deadline - now))
            self._total = max(FEWEST, min(self._planned, reachable))


def fit(
    train: Windows, check: Windows, plan: Plan, progress: Callable[[float, str], None]
) -> tuple[Any, Array, Array]:
    """Train a network; return it with its forecasts of `check` and the truths, in units.

    Minimises the pinball loss (Koenker and Bassett 1978) with AdamW on a one-cycle rate; keeps an
    average of the weights, and of these the one that does best on `check`. Equal seeds give equal
    weights unless `plan.deadline` ends the training before `plan.steps`.
    """
    with needs():
        import torch

    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(plan.seed)
        width = 0 if train.calendar is None else train.calendar.shape[1]
        network = build_network(plan.context, plan.horizon, plan.quantiles, width)
        usual = train.filled[np.isfinite(train.filled)]
        network.level.fill_(float(usual.mean()))
        network.spread.fill_(float(usual.std()) + 1e-3)
        weight = _series_weights(train.values)
        average = {name: value.clone() for name, value in network.state_dict().items()}
        optimiser = torch.optim.AdamW(network.parameters(), lr=plan.rate, weight_decay=0.01)
        pace = Pace(plan.steps, plan.deadline)
        levels = torch.tensor(plan.quantiles)
        rng = np.random.default_rng([plan.seed, 7])
        best, best_loss = average, float("inf")
        every = max(20, plan.steps // 8)
        while not pace.over:
            for group in optimiser.param_groups:
                group["lr"] = plan.rate * pace.rate()
            picked = train.origins[rng.integers(0, len(train.origins), plan.batch)]
            inputs, truth = gather(train, picked, plan)
            _shorten(rng, inputs["series"], plan)
            if "calendar" in inputs:
                inputs["calendar"][rng.random(plan.batch) < 0.05] = 0.0
            answer = network(**_tensors(inputs))
            loss = pinball(answer, torch.from_numpy(truth), levels)
            loss = (loss * torch.from_numpy(weight[picked[:, 0]])[:, None, None]).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            pace.tick()
            keep = min(0.99, pace.step / (pace.step + 9))
            for name, value in network.state_dict().items():
                average[name].lerp_(value, 1 - keep)
            if pace.step % every == 0 or pace.over:
                found = _check_loss(network, average, check, plan, weight)
                if found < best_loss:
                    best_loss, best = found, {n: v.clone() for n, v in average.items()}
                progress(pace.share, f"step {pace.step}: validation loss {found:.4f}")
        network.load_state_dict(best)
    answer, truth = forecast(network, check, plan)
    return network, answer, truth


@contextmanager
def _one_thread() -> Iterator[None]:
    """A network this small is slower on several threads, most of all on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def forecast(network: Any, windows: Windows, plan: Plan) -> tuple[Array, Array]:
    """Forecasts and truths of all origins, FP32[n, horizon, quantiles] and FP32[n, horizon]."""
    import torch

    inputs, truth = gather(windows, windows.origins, plan)
    network.eval()
    with torch.inference_mode():
        answer: Array = network(**_tensors(inputs)).numpy()
    network.train()
    return answer, truth


def gather(windows: Windows, origins: Array, plan: Plan) -> tuple[dict[str, Array], Array]:
    """Inputs and truths of these origins."""
    series, start = origins[:, :1], origins[:, 1:]
    inputs = {"series": windows.filled[start + np.arange(-plan.context, 0), series]}
    if windows.calendar is not None:
        inputs["calendar"] = windows.calendar[start[:, 0] - 1]
    return inputs, windows.values[start + np.arange(plan.horizon), series]


def pinball(answer: Any, truth: Any, levels: Any) -> Any:
    """The loss of each quantile of each step."""
    import torch

    error = truth[..., None] - answer
    return torch.maximum(levels * error, (levels - 1) * error)


def _tensors(inputs: dict[str, Array]) -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(array) for name, array in inputs.items()}


def _series_weights(values: Array) -> Array:
    """One over each series' usual change: vehicles and km/h weigh the same in the loss."""
    change = np.abs(np.diff(values, axis=0))
    usual = np.nansum(change, axis=0) / np.maximum(1, np.isfinite(change).sum(axis=0))
    floor = max(float(np.median(usual)) * 0.1, 1e-3)
    weights: Array = (1.0 / np.maximum(usual, floor)).astype(np.float32)
    return weights


def _shorten(rng: np.random.Generator, series: Array, plan: Plan) -> None:
    """Some windows begin later, as calls with a short history do: their first value repeated."""
    if plan.shortest >= plan.context:
        return
    for row in np.flatnonzero(rng.random(len(series)) < 0.25):
        first = plan.context - int(rng.integers(plan.shortest, plan.context))
        series[row, :first] = series[row, first]


def _check_loss(
    network: Any, average: dict[str, Any], check: Windows, plan: Plan, weight: Array
) -> float:
    import torch

    mine = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(average)
    answer, truth = forecast(network, check, plan)
    network.load_state_dict(mine)
    loss = pinball(torch.from_numpy(answer), torch.from_numpy(truth), torch.tensor(plan.quantiles))
    return float((loss.mean(dim=(1, 2)).numpy() * weight[check.origins[:, 0]]).mean())
