"""Deployments, evaluations, usage and the state of the platform."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from citybrain.core.names import Name
from citybrain.core.schemas.people import Known, Said


class NewDeployment(Said):
    """What should run."""

    target: str = Field(default="champion", max_length=63, description="An alias or a version.")
    replicas: int = Field(default=1, ge=1, le=64)


class Deployment(Known):
    """What should run, and what the reconciler last saw."""

    algorithm: str
    target: str
    replicas: int
    state: Literal["waiting", "starting", "running", "failed", "removing"]
    message: str
    version: int
    running: dict[str, Any]
    wanted_by: str
    wanted_at: datetime


class NewEvaluation(Said):
    """An evaluation to run."""

    algorithm: Name
    target: str = Field(default="", max_length=63, description="Nothing: challenger, else newest.")
    data: str = Field(default="", max_length=1000, description="A path; empty: the scenario's own.")


class Evaluation(Known):
    """One run of a scenario over one version, with its report when it is done."""

    id: str
    scenario: str
    algorithm: str
    version: int
    data: str
    state: Literal["waiting", "running", "done", "failed"]
    progress: float
    passed: bool | None
    report: dict[str, Any]
    error: dict[str, Any]
    asked_by: str
    created_at: datetime
    finished_at: datetime | None


class ScenarioInfo(Known):
    """A scenario as the catalogue shows it."""

    name: str
    title_zh: str
    title_en: str
    domain: str
    task: str
    question: str
    metrics: list[str]
    gate: list[str]


class UsageLine(Known):
    """Usage of one algorithm version by one department on one day."""

    day: str
    department: str
    algorithm: str
    version: int
    requests: int
    failed: int
    rows: int
    mean_ms: float


class UsageMinute(Known):
    """Calls of one algorithm in one minute (`minute`: Unix minutes)."""

    minute: int
    algorithm: str
    requests: int
    failed: int
    p50_ms: float
    p95_ms: float


class PlatformStatus(Known):
    """What runs, where, since when."""

    version: str
    url: str
    grpc: str
    home: str
    mlflow: str
    started_at: datetime
    ray: Literal["up", "starting", "down"]
    ready: bool
    deployments: list[Deployment]
    processes: dict[str, int]
