"""What a section of the serving benchmark asks: a model, requests for it, and right answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from load import Load


class Door(Protocol):
    """Where one body is sent."""

    def ask(self) -> tuple[int, bytes]:
        """One request: status (200 is good over gRPC too) and body."""

    def load(self, connections: int, seconds: float, *, wrk: bool | None = None) -> Load:
        """Keep this many connections busy for this long."""


@dataclass(frozen=True)
class Request:
    """One request, as every peer takes it."""

    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Workload:
    """A section: the model and, by a word for the body, what is sent and what must come back."""

    section: str
    says: str
    model: Path
    """The ONNX file."""
    requests: dict[str, Request]
    packages: dict[str, Path]
    """The package that the platform serves for each body; several bodies may share one."""
    read: Callable[[bytes], Any]
    """The numbers in an answer."""
    expected: dict[str, list[float]]

    def check(self, kind: str, door: Door, times: int = 5) -> int:
        """Ask a few times; every answer must be 200 with the right numbers. How often it asked."""
        for _ in range(times):
            status, body = door.ask()
            if status != 200:
                raise RuntimeError(f"status {status}: {body[:300]!r}")
            found = np.ravel(self.read(body))
            if found.shape != np.shape(self.expected[kind]) or not np.allclose(
                found, self.expected[kind], rtol=1e-3, atol=1e-4
            ):
                raise RuntimeError(f"wrong numbers: {found} instead of {self.expected[kind]}")
        return times


def read_json(body: bytes) -> Any:
    """The numbers of an Open Inference Protocol answer in JSON."""
    answer = json.loads(body)
    # BentoML can answer what it batches with a list only.
    (output,) = answer["outputs"] if isinstance(answer, dict) else answer
    return output["data"]
