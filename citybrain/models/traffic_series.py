"""Generated traffic: 5-minute vehicle counts and mean speeds of a small city's sensors.

Sensors stand along corridors. Demand follows the time of day and week, rain and slow common
swings; incidents take capacity away and queues travel upstream. Counts and speeds come from
demand through the shape of a fundamental diagram (Greenshields 1935: flow rises with density up
to capacity, speed falls with it), plus the noise and the drop-outs of real detectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from citybrain.core.shelf import needs
from citybrain.core.tensors import Array

STEP = 300
STEPS_A_DAY = 86_400 // STEP
PER_CORRIDOR = 6


@dataclass(frozen=True)
class Part:
    """How much one part of the data holds, and when it begins."""

    corridors: int
    days: int
    begin: datetime


PARTS = {
    "train": Part(10, 28, datetime(2026, 3, 2)),  # noqa: DTZ001 - local times
    "test": Part(5, 14, datetime(2026, 4, 6)),  # noqa: DTZ001 - local times
}


def write_traffic(path: Path, *, seed: int, part: str) -> Path:
    """A wide CSV: a column of local times, then a flow or a speed a sensor, empty in gaps."""
    with needs():
        import pandas as pd
    plan = PARTS[part]
    # The seed is split by part: other corridors, sensors, weather and noise in each.
    rng = np.random.default_rng([seed, 1 if part == "train" else 2])
    steps = plan.days * STEPS_A_DAY
    rain = _rain(rng, steps)
    city = _swing(rng, steps, hours=5.0, size=0.06)
    columns: dict[str, Array] = {}
    for corridor in range(plan.corridors):
        letter = chr(ord("a" if part == "train" else "q") + corridor)
        for place, series in enumerate(_corridor(rng, plan, rain, city)):
            kind = "speed" if (corridor + place) % 3 == 0 else "flow"
            values = series[0 if kind == "flow" else 1]
            columns[f"{kind}-{letter}{place + 1}"] = _detector(rng, values, kind)
    times = [(plan.begin + timedelta(seconds=STEP * i)).isoformat() for i in range(steps)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"time": times, **columns}).to_csv(path, index=False, lineterminator="\n")
    return path


def _corridor(
    rng: np.random.Generator, plan: Part, rain: Array, city: Array
) -> list[tuple[Array, Array]]:
    """Counts and speeds of the sensors of one corridor; they share demand and queues."""
    steps = plan.days * STEPS_A_DAY
    demand = _profile(rng, plan) * (1 + city + _swing(rng, steps, hours=1.5, size=0.08))
    capacity = rng.uniform(90, 320)  # vehicles in five minutes
    free = rng.uniform(45, 105)  # km/h
    loss = _incidents(rng, plan.days, steps) + 0.12 * rain
    found = []
    for place in range(PER_CORRIDOR):
        # Downstream sensors see the same vehicles a little later; queues come back upstream.
        wanted = np.roll(demand, place // 2) * (1 + _swing(rng, steps, hours=0.8, size=0.05))
        local = np.roll(loss, -place) * rng.uniform(0.5, 1.0)
        room = np.clip(1 - local, 0.15, 1.0)
        load = wanted / room
        flow = capacity * np.minimum(wanted, room * (1 - 0.12 * np.clip(load - 1, 0, 1)))
        # Speed holds until the road is nearly full, then falls; queues dissolve slowly.
        full = _lag(np.clip((load - 0.72) / 0.5, 0, 1), 0.75)
        speed = free * (1 - 0.1 * np.minimum(load, 1) - 0.72 * full - 0.06 * rain)
        found.append((np.maximum(flow, 0.0), np.maximum(speed, 4.0)))
    return found


def _profile(rng: np.random.Generator, plan: Part) -> Array:
    """Demand as a share of capacity: two weekday peaks, one broad weekend hill."""
    hours = np.arange(STEPS_A_DAY) * STEP / 3600
    inbound = rng.uniform(0.25, 0.75)
    height = rng.uniform(0.65, 1.05)
    night = rng.uniform(0.02, 0.06)

    def hill(hour: float, width: float) -> Array:
        away = np.abs(hours - hour)
        bump: Array = np.exp(-0.5 * (np.minimum(away, 24 - away) / width) ** 2)
        return bump

    days = []
    for day in range(plan.days):
        date = plan.begin + timedelta(days=day)
        late = rng.normal(0, 0.15)
        busy = height * rng.normal(1.0, 0.05)
        if date.weekday() < 5:
            shape = 0.5 * hill(13.5, 4.5)
            shape += (0.45 + 0.35 * inbound) * hill(8.0 + late, 1.1)
            shape += (0.80 - 0.35 * inbound) * hill(17.8 + late + 0.3 * (date.weekday() == 4), 1.4)
        else:
            shape = 0.68 * hill(14.5 + late, 4.2) + 0.15 * hill(20.0, 1.5)
        days.append(night + busy * shape)
    return np.concatenate(days)


def _rain(rng: np.random.Generator, steps: int) -> Array:
    """0 (dry) to 1 (downpour), in spells of a few hours."""
    rain = np.zeros(steps)
    at = 0
    while (at := at + int(rng.exponential(2.5 * STEPS_A_DAY))) < steps:
        length = int(rng.uniform(1, 9) * 3600 / STEP)
        spell = np.sin(np.linspace(0, np.pi, length)) * rng.uniform(0.2, 1.0)
        end = min(steps, at + length)
        rain[at:end] = np.maximum(rain[at:end], spell[: end - at])
        at = end
    return rain


def _incidents(rng: np.random.Generator, days: int, steps: int) -> Array:
    """The share of capacity that crashes and road works take away; it ends as lanes reopen."""
    loss = np.zeros(steps)
    for _ in range(rng.poisson(0.35 * days)):
        start = int(rng.integers(0, steps))
        length = int(rng.uniform(0.3, 2.5) * 3600 / STEP)
        size = rng.uniform(0.2, 0.65)
        end = min(steps, start + length)
        loss[start:end] = np.maximum(loss[start:end], size)
        tail = min(steps, end + 6)
        loss[end:tail] = np.maximum(loss[end:tail], size * np.linspace(0.8, 0.1, 6)[: tail - end])
    return loss


def _swing(rng: np.random.Generator, steps: int, *, hours: float, size: float) -> Array:
    """A first-order autoregressive swing around zero with this memory and standard deviation."""
    keep = float(np.exp(-STEP / (hours * 3600)))
    noise = rng.normal(0, size * np.sqrt(1 - keep**2), steps)
    return _lag(noise / (1 - keep), keep)


def _lag(values: Array, keep: float) -> Array:
    """Exponential smoothing: what a road remembers of the step before."""
    smooth = np.empty_like(values)
    level = 0.0
    for index, value in enumerate(values.tolist()):
        level = keep * level + (1 - keep) * value
        smooth[index] = level
    return smooth


def _detector(rng: np.random.Generator, values: Array, kind: str) -> Array:
    """What a detector reports: whole vehicles or noisy speeds, with short and long drop-outs."""
    if kind == "flow":
        seen: Array = rng.poisson(values * rng.uniform(0.95, 1.0)).astype(np.float64)
    else:
        seen = np.round(np.maximum(0.0, values + rng.normal(0, 1.8, len(values))), 1)
    for length in (
        *rng.integers(1, 4, rng.poisson(len(seen) / 900)),
        *rng.integers(12, 60, 2),
    ):
        start = int(rng.integers(0, len(seen) - length))
        seen[start : start + length] = np.nan
    return seen
