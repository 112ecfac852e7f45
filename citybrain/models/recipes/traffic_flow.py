"""`traffic-flow`: what road sensors will count in the next hour, with an honest range.

Trained on generated corridors (`traffic_series`) or on any file of series. One small network
answers for every sensor (`forecast_network`), so a sensor that it never saw can be asked at once.
"""

from __future__ import annotations

from pathlib import Path
from time import monotonic
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import yaml

from citybrain.core.errors import BadData
from citybrain.core.shelf import needs
from citybrain.core.tensors import Array
from citybrain.models.clock import CALENDAR, calendar_features
from citybrain.models.datasets.series import SeriesTable, read_series
from citybrain.models.forecast_network import build_network
from citybrain.models.forecast_training import Plan, Windows, fit
from citybrain.models.package import MANIFEST
from citybrain.models.recipe import RECIPES, Progress, Recipe
from citybrain.models.traffic_series import write_traffic

QUANTILES = [0.1, 0.5, 0.9]
CONTEXTS = (48, 24, 12)
ENOUGH = 2_000  # windows that make a longer context worth its weights
CHECKED = 2_000  # windows of the validation part that are scored
STEPS_A_SECOND = 80  # of training, on two cores
PASSES = 40  # over small data; more of them only learn the windows by heart


@RECIPES.add("traffic-flow")
class TrafficFlow(Recipe):
    """Forecasting, torch: one network for all series."""

    task = "forecasting"
    summary = "Traffic flow and speed one hour ahead (generated sensors; global quantile network)"
    budget = 15.0
    settable = ("horizon", "context", "step_seconds", "timezone")

    horizon = 12
    context = 0
    """Values that the model sees; 0: the longest of CONTEXTS that the data have windows for."""
    step_seconds = 300
    """Counts only for files without times."""
    timezone = "Asia/Shanghai"

    def generate(self, folder: Path, *, seed: int, part: str) -> Path:
        """A wide CSV of 5-minute flows and speeds; the test part is later and of other sensors."""
        return write_traffic(folder / f"traffic-{part}.csv", seed=seed, part=part)

    def train(
        self, data: Path, out: Path, *, seed: int, budget: float, progress: Progress
    ) -> dict[str, float]:
        """Learn from the first 85 % of the rows; the rest, later in time, is the validation."""
        progress(0.0, "reading the series")
        with needs():
            import torch  # noqa: F401 - loading it is not training, and counts for no budget
        began = monotonic()
        zone = ZoneInfo(self.timezone)
        table = read_series(data, zone=zone, step_seconds=self.step_seconds)
        context = self.context or _context(table, self.horizon)
        train, check = self._split(table, context, zone)
        plan = Plan(
            context, self.horizon, QUANTILES, shortest=min(12, context),
            steps=_steps(budget, len(train.origins)),
            deadline=began + self.patience * (0.9 * budget - 0.5), seed=seed,  # the rest is for the package
        )  # fmt: skip
        network, answer, truth = fit(
            train, check, plan, lambda share, what: progress(0.05 + 0.9 * share, what)
        )
        self._write(out, network, table, context, data, seed)
        progress(1.0, "done")
        return _metrics(answer, truth, check)

    def network(self, options: dict[str, Any]) -> Any:
        """The architecture of these options, as the `torch` runtime builds it."""
        width = CALENDAR if options.get("calendar", True) else 0
        return build_network(
            int(options["context"]),
            int(options["horizon"]),
            list(options.get("quantiles", QUANTILES)),
            width,
        )

    def _split(self, table: SeriesTable, context: int, zone: ZoneInfo) -> tuple[Windows, Windows]:
        origins = table.origins(context, self.horizon)
        border = int(0.85 * len(table.values))
        early = origins[origins[:, 1] + self.horizon <= border]
        late = origins[origins[:, 1] >= border]
        if not len(early) or not len(late):
            raise BadData(
                f"{table.name} is too short to learn from: its first 85 % and its last 15 % must "
                f"each hold {context + self.horizon} steps in a row without a long gap."
            )
        calendar = None if table.times is None else calendar_features(table.times, zone)
        filled = table.filled()
        known = table.values.copy()
        known[border:] = np.nan  # what is usual is learned from the training part alone
        train = Windows(np.where(np.isnan(known), np.nan, filled), known, calendar, early)
        train.filled[:border] = filled[:border]
        late = late[:: -(-len(late) // CHECKED)]
        return train, Windows(filled, table.values, calendar, late)

    def _write(
        self,
        out: Path,
        network: Any,
        table: SeriesTable,
        context: int,
        data: Path,
        seed: int,
    ) -> None:
        with needs():
            from safetensors.torch import save_file
        out.mkdir(parents=True, exist_ok=True)
        state = {name: value.contiguous() for name, value in network.state_dict().items()}
        save_file(state, out / "model.safetensors")
        smallest = float(np.nanmin(table.values))
        manifest = {
            "format": 1,
            "name": "traffic-flow",
            "title": {"zh": "交通流量预测", "en": "Traffic flow forecast"},
            "description": "The next values of a road sensor, flow or speed, as three quantiles.",
            "task": self.task,
            "runtime": "torch",
            "weights": "model.safetensors",
            "domain": "traffic",
            "owner": "traffic",
            "licence": "Apache-2.0",
            "max_batch": 1024,
            "options": {
                "context": context,
                "min_context": min(12, context),
                "horizon": self.horizon,
                "quantiles": QUANTILES,
                "step_seconds": table.step_seconds,
                "calendar": table.times is not None,
                "timezone": self.timezone,
                "feature_service": "traffic-flow",
                "non_negative": smallest >= 0,
            },
            "lineage": {"recipe": "traffic-flow", "data": data.name, "seed": seed},
        }
        text = yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True)
        (out / MANIFEST).write_text(text, encoding="utf-8")


def _context(table: SeriesTable, horizon: int) -> int:
    for context in CONTEXTS:
        if len(table.origins(context, horizon)) >= ENOUGH:
            return context
    return CONTEXTS[-1]


def _steps(budget: float, windows: int) -> int:
    """Planned steps: from the budget and the data alone, so that equal calls learn alike."""
    affordable = int(0.65 * budget * STEPS_A_SECOND)
    return max(60, min(20_000, affordable, PASSES * windows // Plan.batch))


def _metrics(answer: Array, truth: Array, check: Windows) -> dict[str, float]:
    """Errors of the validation windows, beside those of repeating the last value."""
    last = check.filled[check.origins[:, 1] - 1, check.origins[:, 0]][:, None]
    error, naive = answer[..., 1] - truth, last - truth
    inside = (truth >= answer[..., 0]) & (truth <= answer[..., 2])
    return {
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "coverage": float(inside.mean()),
        "mae-last-value": float(np.abs(naive).mean()),
        "rmse-last-value": float(np.sqrt((naive**2).mean())),
    }
