"""A small CTC network for short vocabularies, and how it is trained.

Two strided convolutions (to 40 ms a step) and residual blocks of dilated ones, which together
hear about a second: a time-delay network (Waibel et al. 1989), trained with connectionist
temporal classification (Graves et al. 2006). It learned faster on a CPU than a GRU of the same
size. Every convolution is fed zeros beyond a row's length, so that an answer does not depend on
the other rows of its batch.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic
from typing import Any, NamedTuple

import numpy as np

from citybrain.core.shelf import needs
from citybrain.core.tensors import Array

ENTRY = 64
WIDTH = 96
DILATIONS = (1, 2, 3)
STRIDE = 2
KERNEL = 5
PEAK_RATE = 4e-3
AVERAGING = 0.98  # of the weights, over steps: the average answers, the last step does not

REDUCTION = STRIDE**2
"""Frames of the features to one of the logits."""
FLAT_START = 0.35
"""The share of the training in which the rough places of the tokens count, less and less."""


class Batch(NamedTuple):
    """What one step learns from."""

    features: Array  # FP32[rows, frames, mels]
    lengths: Array  # INT64[rows]: valid frames
    texts: list[list[int]]  # tokens of each row
    places: Array  # INT64[rows, frames of the logits]: the likely token, 0 between, -1 beyond


def build_network(n_mels: int, tokens: int) -> Any:
    """`forward(features, lengths)` gives `logits` FP32[n,m,tokens] and `frames`, their valid ones."""
    with needs():
        import torch
        from torch import nn

    class Layer(nn.Module):  # type: ignore[misc]  # torch is untyped here
        def __init__(self, wide: int, out: int, stride: int, dilation: int) -> None:
            super().__init__()
            around = dilation * (KERNEL // 2)
            self.convolution = nn.Conv1d(wide, out, KERNEL, stride, around, dilation)

        def forward(self, x: Any, lengths: Any) -> Any:
            valid = torch.arange(x.shape[1], device=x.device)[None, :] < lengths[:, None]
            return self.convolution((x * valid[:, :, None]).transpose(1, 2)).transpose(1, 2)

    class Entry(nn.Module):  # type: ignore[misc]  # torch is untyped here
        def __init__(self, wide: int, out: int) -> None:
            super().__init__()
            self.layer = Layer(wide, out, STRIDE, 1)
            self.norm = nn.LayerNorm(out)

        def forward(self, x: Any, lengths: Any) -> Any:
            return nn.functional.gelu(self.norm(self.layer(x, lengths)))

    class Block(nn.Module):  # type: ignore[misc]  # torch is untyped here
        def __init__(self, dilation: int) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(WIDTH)
            self.layer = Layer(WIDTH, WIDTH, 1, dilation)
            self.mix = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Any, lengths: Any) -> Any:
            return x + self.mix(nn.functional.gelu(self.layer(self.norm(x), lengths)))

    class Listener(nn.Module):  # type: ignore[misc]  # torch is untyped here
        def __init__(self) -> None:
            super().__init__()
            self.entries = nn.ModuleList([Entry(n_mels, ENTRY), Entry(ENTRY, WIDTH)])
            self.blocks = nn.ModuleList(Block(dilation) for dilation in DILATIONS)
            self.drop = nn.Dropout(0.1)
            self.norm = nn.LayerNorm(WIDTH)
            self.leave = nn.Linear(WIDTH, tokens)

        def forward(self, features: Any, lengths: Any) -> Any:
            x = features
            for entry in self.entries:
                x = entry(x, lengths)
                lengths = torch.div(lengths + STRIDE - 1, STRIDE, rounding_mode="floor")
            x = self.drop(x)
            for block in self.blocks:
                x = block(x, lengths)
            return {"logits": self.leave(self.drop(self.norm(x))), "frames": lengths}

    return Listener()


@dataclass(frozen=True)
class Plan:
    """How long to train: `steps`, or `seconds` if they are over first."""

    steps: int
    seconds: float
    seed: int


def fit(
    network: Any,
    draw: Callable[[np.random.Generator], Batch],
    plan: Plan,
    progress: Callable[[float, str], None],
) -> Any:
    """Train on drawn batches; the network with averaged weights, in eval mode on the CPU."""
    import torch
    from torch.optim.swa_utils import AveragedModel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    began = monotonic()
    network = network.to(device).train()
    average = AveragedModel(network, avg_fn=_moving_average)
    descent = torch.optim.AdamW(network.parameters(), PEAK_RATE, (0.9, 0.98), weight_decay=0.01)
    loss_of = torch.nn.CTCLoss(blank=0, zero_infinity=True)
    rng = np.random.default_rng([plan.seed, 7])
    # One thread draws the next batch meanwhile; it alone uses the generator, so that the order
    # of the draws, and with it the training, does not depend on timing.
    with ThreadPoolExecutor(1) as drawer:
        coming = drawer.submit(draw, rng)
        for step in range(plan.steps):
            batch = coming.result()
            coming = drawer.submit(draw, rng)
            share = max(step / plan.steps, (monotonic() - began) / plan.seconds)
            if share >= 1:
                break
            for group in descent.param_groups:
                group["lr"] = PEAK_RATE * min(1.0, share / 0.08 + 0.02, (1 - share) / 0.6)
            found = network(
                torch.from_numpy(batch.features).to(device),
                torch.from_numpy(batch.lengths).to(device),
            )
            logits = found["logits"].float()
            loss = loss_of(
                logits.log_softmax(-1).transpose(0, 1),
                torch.tensor([token for text in batch.texts for token in text]),
                found["frames"].cpu(),
                torch.tensor([len(text) for text in batch.texts]),
            )
            if share < FLAT_START:
                places = torch.from_numpy(batch.places).to(device)
                rough = torch.nn.functional.cross_entropy(
                    logits.transpose(1, 2), places, ignore_index=-1
                )
                loss = loss + 3 * (1 - share / FLAT_START) * rough
            descent.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            descent.step()
            average.update_parameters(network)
            if step % 10 == 0:
                progress(share, f"step {step}, loss {loss.item():.3f}")
    return average.module.cpu().eval()


def _moving_average(mean: Any, value: Any, count: Any) -> Any:
    # The first steps weigh little, or a short training would answer with its own beginning.
    keep = min(AVERAGING, (int(count) + 1) / (int(count) + 10))
    return keep * mean + (1 - keep) * value
