"""Schemas: what services return, what the API sends and what the SDK gives back; written once."""

from citybrain.core.schemas.algorithms import (
    Algorithm,
    AlgorithmPage,
    AliasMove,
    NewPromotion,
    Promotion,
    Version,
)
from citybrain.core.schemas.people import (
    Actor,
    AuditEntry,
    Department,
    Grant,
    IssuedKey,
    Key,
    NewDepartment,
    NewGrant,
    NewKey,
    Role,
)
from citybrain.core.schemas.running import (
    Deployment,
    Evaluation,
    NewDeployment,
    NewEvaluation,
    PlatformStatus,
    ScenarioInfo,
    UsageLine,
    UsageMinute,
)

__all__ = [
    "Actor", "Algorithm", "AlgorithmPage", "AliasMove", "AuditEntry", "Department", "Deployment",
    "Evaluation", "Grant", "IssuedKey", "Key", "NewDepartment", "NewDeployment", "NewEvaluation",
    "NewGrant", "NewKey", "NewPromotion", "PlatformStatus", "Promotion", "Role", "ScenarioInfo",
    "UsageLine", "UsageMinute", "Version",
]  # fmt: skip
