"""Deployments, evaluations, usage and the state of the platform."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field, model_validator

from citybrain.core.names import Name
from citybrain.core.schemas.people import Known, Said

MOST_REPLICAS = 64
MOST_CPUS = 256
MOST_GPUS = 16
LEAST_SHARE = 0.01
SLEEP_AFTER = 300.0


class Scaling(Said):
    """How many replicas a deployment may have, and when it gets more or fewer.

    The load of a replica is how many frames of calls it has on average, waiting or worked on: 1 is
    a replica that always works and lets nobody wait.
    """

    min_replicas: int = Field(default=1, ge=0, le=MOST_REPLICAS, description="0: it may sleep.")
    max_replicas: int = Field(ge=1, le=MOST_REPLICAS)
    target_load: float = Field(
        default=1.0, ge=0.05, le=1.5, allow_inf_nan=False,
        description="Frames a replica; a gateway sends two at most, so 2 would never be passed.",
    )  # fmt: skip
    up_after: float = Field(
        default=5.0, ge=0, le=3600, allow_inf_nan=False,
        description="Seconds above the target until replicas are added.",
    )  # fmt: skip
    down_after: float = Field(
        default=60.0, ge=0, le=86_400, allow_inf_nan=False,
        description="Seconds below it until replicas are taken down.",
    )  # fmt: skip
    sleep_after: float | None = Field(
        default=None, ge=1, le=604_800, allow_inf_nan=False,
        description=f"Seconds without a call until none is left; nothing: {SLEEP_AFTER:g}.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _fits(self) -> Scaling:
        """Refuse what could not take effect."""
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas ({self.min_replicas}) is above max_replicas ({self.max_replicas})"
            )
        if self.min_replicas == self.max_replicas:
            raise ValueError(
                f"a range of {self.min_replicas} to {self.max_replicas} never scales; say replicas"
            )
        if self.min_replicas and self.sleep_after is not None:
            raise ValueError("sleep_after needs min_replicas 0: otherwise one replica is kept")
        if self.max_replicas == 1:  # awake or asleep: the first call and sleep_after decide
            for name in ("target_load", "up_after", "down_after"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} has no effect in a range of 0 to 1")
        return self


class NewDeployment(Said):
    """What should run: a fixed number of replicas, or a range that follows the load."""

    target: str = Field(default="champion", max_length=63, description="An alias or a version.")
    replicas: int | None = Field(
        default=None, ge=1, le=MOST_REPLICAS,
        description="As many, always; nothing: 1, or as `scaling` says.",
    )  # fmt: skip
    scaling: Scaling | None = None
    shared: bool = Field(default=False, description="In one replica with other light algorithms.")
    cpus: int = Field(
        default=1, ge=1, le=MOST_CPUS, description="Threads that one call has in a replica."
    )
    gpus: float = Field(
        default=0.0, ge=0, le=MOST_GPUS, allow_inf_nan=False,
        description="GPUs of a replica; below 1: a share of one. 0: it sees none.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _fits(self) -> NewDeployment:
        """Refuse two answers to one question, and two names of one version."""
        if self.target.isdecimal() and self.target != (plain := str(int(self.target))):
            raise ValueError(f"version {plain} is written {plain}")
        if self.replicas is not None and self.scaling is not None:
            raise ValueError("say replicas (a fixed number) or scaling (a range), not both")
        if self.shared and (self.scaling is not None or self.most > 1):
            raise ValueError("shared algorithms have one replica together: no number, no range")
        if self.shared and (self.cpus > 1 or self.gpus):
            raise ValueError("shared algorithms have one replica together: no CPUs, no GPUs")
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError("gpus is a share of one GPU, or a whole number")
        if 0 < self.gpus < LEAST_SHARE:
            raise ValueError(f"gpus is at least {LEAST_SHARE:g}, or 0 for none")
        return self

    @property
    def most(self) -> int:
        """How many replicas it has at most."""
        return self.scaling.max_replicas if self.scaling else self.replicas or 1


class Deployment(Known):
    """What should run, and what the reconciler last saw."""

    algorithm: str
    target: str
    replicas: int
    """How many are wanted; of a range: at most."""
    scaling: Scaling | None = None
    """The range, if the number follows the load."""
    shared: bool = False
    """Whether it shares a replica with other algorithms."""
    cpus: int = 1
    gpus: float = 0.0
    """Of each replica."""
    running_replicas: int | None = None
    """How many answer now, where that was asked of Serve."""
    asleep: bool = False
    """Whether there is none because nobody called; the next call wakes one."""
    state: Literal["waiting", "starting", "running", "failed", "removing"]
    message: str
    version: int
    running: dict[str, Any]
    wanted_by: str
    wanted_at: datetime

    @property
    def wanted_replicas(self) -> str:
        """The number of replicas that is wanted, as people write it."""
        least = f"{self.scaling.min_replicas}.." if self.scaling else ""
        return "shared" if self.shared else f"{least}{self.replicas}"

    @property
    def resources(self) -> str:
        """What each replica has beyond the one CPU that every replica has; empty: nothing."""
        parts = [f"{self.cpus} CPU"] * (self.cpus > 1) + [f"{self.gpus:g} GPU"] * (self.gpus > 0)
        return " + ".join(parts)


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
    """MLflow's tracking address on the platform's machine."""
    mlflow_server: str = ""
    """MLflow's tracking address for other machines; empty without `up --mlflow`."""
    started_at: datetime
    ray: Literal["up", "starting", "down"]
    ready: bool
    deployments: list[Deployment]
    processes: dict[str, int]
