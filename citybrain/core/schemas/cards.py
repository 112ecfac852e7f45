"""The algorithm card, and the lineage graph: what an algorithm is and where it comes from."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from citybrain.core.levels import Level
from citybrain.core.schemas.history import Retirement
from citybrain.core.schemas.people import Known


class CardFigures(Known):
    """The newest evaluation of a version in one scenario: each metric with its interval."""

    scenario: str
    at: datetime
    passed: bool
    items: int
    metrics: dict[str, dict[str, Any]]


class Card(Known):
    """What one should know before using a version of an algorithm."""

    algorithm: str
    version: int
    aliases: list[str]
    title_zh: str
    title_en: str
    description: str
    task: str
    domain: str
    runtime: str
    owner: str
    contact: str
    licence: str
    level: Level
    purposes: list[str]
    limits: list[str]
    training_data: str
    data: str
    data_digest: str
    digest: str
    remote: str = ""
    """Where the model lies, when that is another server: the digest covers this, not the weights."""
    registered_at: datetime
    training_metrics: dict[str, float]
    evaluations: list[CardFigures]
    retirement: Retirement | None
    withdrawn: str


class LineageNode(Known):
    """One thing in the life of a version."""

    id: str
    kind: Literal[
        "data", "source", "features", "run", "version", "form", "deployment", "department"
    ]
    name: str
    facts: dict[str, str] = Field(default_factory=dict)


class LineageEdge(Known):
    """The target came from the source, or is used by it, as `says` puts it."""

    source: str
    target: str
    says: str = ""


class LineageGraph(Known):
    """Nodes and edges; every edge points from what was before to what came of it."""

    nodes: list[LineageNode]
    edges: list[LineageEdge]
