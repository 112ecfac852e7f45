"""Scenarios, their league tables, and evaluations."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter

from citybrain.core.schemas import Actor, Evaluation, Key, NewEvaluation, ScenarioInfo
from citybrain.evaluation.gate import rule_text
from citybrain.evaluation.scenario import Scenario, find_scenario, scenarios
from citybrain.platform.api.access import Plane, check_own, may, may_key, seen_evaluations
from citybrain.platform.policy import check

router = APIRouter(tags=["scenarios"])


def _info(scenario: Scenario) -> ScenarioInfo:
    return ScenarioInfo(
        name=scenario.name, title_zh=scenario.title.zh, title_en=scenario.title.en,
        domain=scenario.domain, task=scenario.task, question=scenario.question,
        metrics=list(scenario.metrics), gate=[rule_text(rule) for rule in scenario.gate],
    )  # fmt: skip


@router.get("/scenarios")
def list_scenarios(
    plane: Plane, actor: Annotated[Actor, may("scenario.read")]
) -> list[ScenarioInfo]:
    """All scenarios, shipped and added."""
    return [_info(s) for s in scenarios(plane.truths.home.scenarios).values()]


@router.get("/scenarios/{name}/league")
def league(
    name: str, plane: Plane, actor: Annotated[Actor, may("scenario.read")]
) -> list[Evaluation]:
    """The newest finished evaluation of each version on the scenario's own data, best first."""
    scenario = find_scenario(name, plane.truths.home.scenarios)
    newest: dict[tuple[str, int], Evaluation] = {}
    for found in plane.truths.evaluations.find(scenario=name, state="done"):
        if not found.data:
            newest.setdefault((found.algorithm, found.version), found)
    first = scenario.metrics[0]

    def rank(found: Evaluation) -> float:
        metric: dict[str, Any] = found.report["metrics"][first]
        return float(-metric["value"] if metric["greater_is_better"] else metric["value"])

    return sorted(newest.values(), key=rank)


@router.post("/scenarios/{name}/evaluations", status_code=202)
def start_evaluation(
    name: str, new: NewEvaluation, plane: Plane, key: Annotated[Key, may_key("evaluation.start")]
) -> Evaluation:
    """Evaluate a version; look at the evaluation until it is done or failed."""
    check_own(plane, key, "evaluation.start", "algorithm", new.algorithm)
    if new.data and plane.truths.settings.profile == "production":
        check(key, "evaluation.data")
    return plane.evaluation.ask(name, new, Actor.of(key))


@router.get("/evaluations")
def list_evaluations(
    plane: Plane,
    actor: Annotated[Actor, may("evaluation.read")],
    algorithm: str = "",
    limit: int = 50,
) -> list[Evaluation]:
    """Evaluations, newest first."""
    found = plane.truths.evaluations.find(algorithm=algorithm, limit=min(limit, 500))
    return seen_evaluations(plane, actor, found)


@router.get("/evaluations/{evaluation_id}")
def get_evaluation(
    evaluation_id: str, plane: Plane, actor: Annotated[Actor, may("evaluation.read", "evaluation")]
) -> Evaluation:
    """One evaluation."""
    return plane.truths.evaluations.get(evaluation_id)
