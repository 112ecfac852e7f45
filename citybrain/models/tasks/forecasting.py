"""`forecasting`: the last values of a series to quantiles of its next ones."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from pydantic import Field, field_validator, model_validator

from citybrain.core.errors import BadData, BadTensor, ModelFailed, RowNotFound
from citybrain.core.tensors import Array, Signature, Tensors, TensorSpec
from citybrain.models.clock import (
    DAY,
    UNKNOWN,
    calendar_features,
    check_seconds,
    local_seconds,
    unix_seconds,
    weekday,
)
from citybrain.models.datasets.series import SeriesTable, read_series
from citybrain.models.forecast_heads import NUMBERS, Head, to_quantiles
from citybrain.models.package import Strict
from citybrain.models.task import TASKS, Item, Sample, Task

MAX_VALUES = 10_000
MAX_SAMPLES = 2_000
"""About as many windows as one data set is scored on; the file is strided to reach it."""
PEAK = (7, 8, 17, 18)
NIGHT = (22, 23, 0, 1, 2, 3, 4, 5)


class ForecastingOptions(Strict):
    """How far the model looks back and ahead, and the clock it was trained on."""

    context: int = Field(ge=2, le=MAX_VALUES, description="Values that the model sees.")
    min_context: int = Field(default=1, ge=1, description="Values that a call must bring.")
    horizon: int = Field(ge=1, le=1_000, description="Values that it answers with.")
    quantiles: list[float] = Field(default=[0.1, 0.5, 0.9], min_length=1, max_length=99)
    step_seconds: int = Field(ge=1, description="Seconds between two values.")
    calendar: bool = Field(default=True, description="The model takes a `calendar` tensor.")
    head: Head = Field(default="quantiles", description="What the model's numbers stand for.")
    timezone: str = Field(default="Asia/Shanghai", description="Whose hours and weekdays count.")
    feature_service: str = Field(
        default="",
        description="Feast's service that an item's `entity` is looked up in.",
    )
    non_negative: bool = Field(default=False, description="Answers below zero become zero.")

    @field_validator("quantiles")
    @classmethod
    def _rising(cls, value: list[float]) -> list[float]:
        if not all(0 < q < 1 for q in value) or any(a >= b for a, b in pairwise(value)):
            raise ValueError("quantiles must rise and lie between 0 and 1")
        return value

    @field_validator("timezone")
    @classmethod
    def _zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError("not the name of a time zone") from error
        return value

    @model_validator(mode="after")
    def _fits(self) -> ForecastingOptions:
        if self.min_context > self.context:
            raise ValueError("min_context must not be larger than context")
        return self

    @property
    def zone(self) -> ZoneInfo:
        """The time zone as an object."""
        return ZoneInfo(self.timezone)


class History(Item):
    """A series, oldest value first, or the name of one that the feature store knows."""

    series: list[float] | None = None
    last_time: str | None = None
    """When the last value was measured, ISO 8601; without an offset: the algorithm's time zone."""
    entity: str | None = None


class Forecast(Item):
    """The next values: a list for each quantile, by its name (`"0.5"` is the median)."""

    quantiles: dict[str, list[float]]
    horizon: int
    step_seconds: int
    scale: float = 1.0
    """Only in truths: what `mase` divides this sample's errors by."""


@TASKS.add("forecasting")
class Forecasting(Task):
    """Model: `series` FP32[n,context] to `forecast` FP32[n,horizon,quantiles], or another head's.

    With options.calendar it takes `calendar` FP32[n,14] too. Normalising a series is its work.
    """

    Options = ForecastingOptions
    Input = History
    Output = Forecast
    unit = "series"
    default_metrics = ("mase", "mae", "pinball", "coverage")

    def signature(self) -> Signature:
        size = (-1, self.options.horizon, len(self.options.quantiles))
        return Signature(
            (
                TensorSpec("series", "FP32", (-1, -1)),
                TensorSpec("last_time", "INT64", (-1,), optional=True),
            ),
            (TensorSpec("forecast", "FP32", size),),
        )

    def example(self) -> list[History]:
        steps = np.arange(self.options.context)
        wave = 60 + 25 * np.sin(2 * np.pi * steps * self.options.step_seconds / DAY)
        return [History(series=wave.round(1).tolist(), last_time="2026-03-02T08:05:00+08:00")]

    def entities(self, items: Sequence[History]) -> list[str]:
        """The entity of each item that brings no series, in order, for the feature store."""
        names = [str(item.entity) for item in items if item.series is None and item.entity]
        if names and not self.options.feature_service:
            raise BadTensor(
                "This algorithm reads no feature service.",
                hint="Send `series`, not `entity`.",
            )
        return names

    def fill(
        self,
        items: Sequence[History],
        histories: Sequence[Sequence[float] | None],
        last_times: Sequence[datetime | None],
    ) -> list[History]:
        """The items with a history for each name that `entities` returned; None: it has none."""
        found = iter(zip(histories, last_times, strict=True))
        filled = []
        for item in items:
            if item.series is not None or not item.entity:
                filled.append(item)
                continue
            values, moment = next(found)
            if values is None:
                raise RowNotFound(
                    f"The feature store has no history of {item.entity[:80]!r}.",
                    hint="Push its values first, or send `series`.",
                )
            time = item.last_time if moment is None else moment.isoformat()
            filled.append(History(list(values), time, item.entity))
        return filled

    def read(self, items: list[History]) -> Tensors:
        rows = [self._values(index, item) for index, item in enumerate(items)]
        width = max((len(row) for row in rows), default=0)
        series = [pad_left(row[None], width) for row in rows]
        tensors = {"series": np.concatenate(series) if rows else np.zeros((0, 0), np.float32)}
        if any(item.last_time for item in items):
            zone = self.options.zone
            seconds = [unix_seconds(i.last_time, zone) if i.last_time else UNKNOWN for i in items]
            tensors["last_time"] = np.array(seconds, np.int64)
        return tensors

    def _values(self, index: int, item: History) -> Array:
        """The last values of one item, at most as many as the model sees."""
        if item.series is None:
            if item.entity:
                raise BadTensor(
                    f"Item {index}: the history of {item.entity[:80]!r} was not looked up.",
                    hint="Send `series`, or call the task's own route.",
                )
            raise BadTensor(f"Item {index} has neither `series` nor `entity`.")
        self._check_length(len(item.series), f"Item {index}")
        with np.errstate(over="ignore"):  # what FP32 cannot hold is infinite, and refused as that
            return np.array(item.series[-self.options.context :], dtype=np.float32)

    def _check_length(self, length: int, what: str) -> None:
        least = self.options.min_context
        if not least <= length <= MAX_VALUES:
            raise BadTensor(f"{what} has {length} values, not {least} to {MAX_VALUES}.")

    def prepare(self, inputs: Tensors) -> Tensors:
        series = inputs["series"]
        self._check_length(series.shape[1], "Each series")
        context = self.options.context
        prepared = {"series": pad_left(series[:, -context:], context)}
        if self.options.calendar:
            unknown = np.full(len(series), UNKNOWN, np.int64)
            times = inputs.get("last_time", unknown)
            check_seconds(int(times.min()))
            check_seconds(int(times.max()))
            prepared["calendar"] = calendar_features(times, self.options.zone)
        return prepared

    def finish(self, outputs: Tensors, inputs: Tensors) -> Tensors:
        forecast = outputs.get("forecast", next(iter(outputs.values())))
        want = (
            len(inputs["series"]),
            self.options.horizon,
            NUMBERS.get(self.options.head, len(self.options.quantiles)),
        )
        if forecast.shape != want:
            raise ModelFailed(
                f"The model answers {list(forecast.shape)} where its options say {list(want)}."
            )
        if not np.isfinite(forecast).all():
            raise ModelFailed("The model answers NaN or infinity to this series.")
        forecast = to_quantiles(forecast, self.options.head, self.options.quantiles)
        # Sorting quantiles that cross never makes the pinball loss worse
        # (Chernozhukov, Fernandez-Val, Galichon 2010).
        forecast = np.sort(forecast.astype(np.float32), axis=2)
        if self.options.non_negative:
            forecast = np.maximum(forecast, 0.0)
        return {"forecast": forecast}

    def write(self, outputs: Tensors) -> list[Forecast]:
        names = [str(quantile) for quantile in self.options.quantiles]
        return [
            Forecast(
                dict(zip(names, row.T.tolist(), strict=True)),
                self.options.horizon,
                self.options.step_seconds,
            )
            for row in outputs["forecast"]
        ]

    def samples(self, path: Path) -> list[Sample]:
        options = self.options
        table = read_series(path, zone=options.zone, step_seconds=options.step_seconds)
        if table.step_seconds != options.step_seconds:
            raise BadData(
                f"{path.name} has a value every {table.step_seconds} s; the algorithm was "
                f"trained on one every {options.step_seconds} s."
            )
        origins = table.rolling(options.context, options.horizon, MAX_SAMPLES)
        if not len(origins):
            raise BadData(
                f"{path.name} has no {options.context + options.horizon} steps in a row "
                f"without a long gap ({options.context} to look at, {options.horizon} to check)."
            )
        filled, usual = table.filled(), _usual_change(table)
        return [self._sample(table, filled, usual, int(s), int(t)) for s, t in origins]

    def _sample(
        self, table: SeriesTable, filled: Array, usual: Array, column: int, start: int
    ) -> Sample:
        options = self.options
        history = filled[start - options.context : start, column]
        truth = table.values[start : start + options.horizon, column]
        # A sensor that stood still has a change of zero, which nothing can be divided by: the
        # floor is a tenth of what its series changes by in the whole file.
        scale = max(float(np.abs(np.diff(history)).mean()), 0.1 * float(usual[column]))
        inputs = {"series": history[None].copy()}
        tags = {"series": table.names[column]}
        name = f"{table.names[column]} step {start}"
        if table.times is not None:
            inputs["last_time"] = table.times[start - 1 : start].copy()
            tags |= _time_tags(table.times[start : start + 1], options.zone)
        answer = Forecast(
            {"0.5": truth.tolist()}, options.horizon, options.step_seconds, scale or 1.0
        )
        return Sample(inputs, answer, tags, name)


def pad_left(series: Array, width: int) -> Array:
    """Rows of at least this width; shorter ones begin with their first value repeated."""
    missing = width - series.shape[1]
    return np.pad(series, ((0, 0), (missing, 0)), mode="edge") if missing > 0 else series


def _usual_change(table: SeriesTable) -> Array:
    """Mean absolute change from step to step of each series, 0 where it has no two in a row."""
    change = np.abs(np.diff(table.values, axis=0))
    count = np.maximum(1, (~np.isnan(change)).sum(axis=0))
    usual: Array = np.nansum(change, axis=0) / count
    return usual


def _time_tags(moment: Array, zone: ZoneInfo) -> dict[str, str]:
    """Part of the day and kind of day of a window's first truth."""
    local = local_seconds(moment, zone)
    hour = int(local[0] % DAY // 3600)
    part = "peak" if hour in PEAK else "night" if hour in NIGHT else "day"
    return {"part": part, "day": "weekend" if weekday(local)[0] >= 5 else "weekday"}
