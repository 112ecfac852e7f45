"""A small quantile network for all series at once; `forecast_training` trains it.

Each window is normalised by its own last value and spread (reversible instance normalisation,
Kim et al. 2022; subtracting the last value is NLinear of Zeng et al. 2023). The median is a linear
map of trend and remainder (DLinear, same paper) plus a residual perceptron that also sees the
calendar. The other quantiles are the median plus positive steps, so they cannot cross.
"""

from __future__ import annotations

from typing import Any

from citybrain.core.shelf import needs

TREND = 5  # steps of the moving average
WIDTH = 128


def build_network(context: int, horizon: int, quantiles: list[float], calendar: int) -> Any:
    """`forward(series, calendar)` gives FP32[n, horizon, quantiles]; calendar 0: none is taken."""
    with needs():
        import torch
        from torch import nn

    middle = min(range(len(quantiles)), key=lambda i: abs(quantiles[i] - 0.5))

    class Block(nn.Module):  # type: ignore[misc]  # torch is untyped here
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(WIDTH)
            self.wide = nn.Linear(WIDTH, WIDTH)
            self.back = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Any) -> Any:
            hidden = nn.functional.gelu(self.wide(self.norm(x)))
            return x + self.back(hidden)

    class Forecaster(nn.Module):  # type: ignore[misc]  # torch is untyped here
        def __init__(self) -> None:
            super().__init__()
            self.trend = nn.Linear(context, horizon, bias=False)
            self.remainder = nn.Linear(context, horizon, bias=False)
            self.enter = nn.Linear(2 * context + 4 + calendar, WIDTH)
            self.blocks = nn.Sequential(Block(), Block())
            self.leave = nn.Linear(WIDTH, horizon * len(quantiles))
            for layer in (self.trend, self.remainder, self.leave):
                nn.init.zeros_(layer.weight)  # the first forecast is the last value
            # What is usual in the training data, to tell a window's level from.
            self.register_buffer("level", torch.zeros(()))
            self.register_buffer("spread", torch.ones(()))

        def forward(self, series: Any, calendar: Any = None) -> Any:
            last = series[:, -1:]
            mean = series.mean(dim=1, keepdim=True)
            size = series.abs().mean(dim=1, keepdim=True)
            scale = series.std(dim=1, keepdim=True, unbiased=False) + 0.03 * size + 1e-4
            normal = (series - last) / scale
            trend = nn.functional.avg_pool1d(
                nn.functional.pad(normal[:, None], (TREND - 1, 0), mode="replicate"),
                TREND,
                1,
            )[:, 0]
            remainder = normal - trend
            level = torch.cat(
                [
                    ((last - self.level) / self.spread).clamp(-6, 6),
                    ((mean - self.level) / self.spread).clamp(-6, 6),
                    (scale / (size + 1e-4)).clamp(0, 4),
                    torch.log(scale / self.spread).clamp(-6, 6),
                ],
                dim=1,
            )
            seen = [normal, trend, level] if calendar is None else [normal, trend, level, calendar]
            hidden = self.blocks(self.enter(torch.cat(seen, dim=1)))
            raw = self.leave(hidden).view(-1, horizon, len(quantiles))
            median = raw[..., middle] + self.trend(trend) + self.remainder(remainder)
            steps = nn.functional.softplus(raw - 1.0)
            below = steps[..., :middle].flip(-1).cumsum(-1).flip(-1)
            above = steps[..., middle + 1 :].cumsum(-1)
            middle_one = median[..., None]
            answer = torch.cat([middle_one - below, middle_one, middle_one + above], dim=-1)
            return last[..., None] + scale[..., None] * answer

    return Forecaster()
