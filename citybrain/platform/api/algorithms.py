"""Algorithms, versions, promotions and scenarios."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, File, Form, UploadFile

from citybrain.core.errors import BadPackage, InvalidInput, NotAllowed, TooLarge
from citybrain.core.names import Ref
from citybrain.core.schemas import (
    Algorithm,
    AlgorithmPage,
    AliasMove,
    Evaluation,
    NewEvaluation,
    NewPromotion,
    Promotion,
    ScenarioInfo,
    Version,
)
from citybrain.evaluation.gate import rule_text
from citybrain.evaluation.scenario import Scenario, find_scenario, scenarios
from citybrain.models.package import MANIFEST, MAX_FILES, check_relative
from citybrain.models.task import open_task
from citybrain.platform.api.access import AnyRole, Developer, Plane, check_owner
from citybrain.registry.sources import is_address
from citybrain.serving.gateway.asgi import describe

router = APIRouter(tags=["algorithms"])
MAX_PACKAGE = 2 << 30
CARD = {
    "task", "architecture", "owner", "licence", "domain", "title", "description", "options",
    "max_batch",
}  # fmt: skip


@router.get("/algorithms")
def list_algorithms(plane: Plane, actor: AnyRole) -> list[Algorithm]:
    """The catalogue: every department may look, calling takes a grant."""
    return plane.catalogue.algorithms()


@router.get("/algorithms/{name}")
def get_algorithm(name: str, plane: Plane, actor: AnyRole) -> AlgorithmPage:
    """One algorithm with its versions, its tensors and an example call."""
    algorithm = plane.catalogue.algorithm(name)
    versions = plane.catalogue.versions(name)
    retirements, ends = plane.truths.endings.retirements(name), plane.truths.endings.ends(name)
    closed = {end.version for end in ends}
    usable = [one for one in versions if not one.problem and one.version not in closed]
    if not usable:
        return AlgorithmPage(
            algorithm=algorithm, versions=versions, manifest={}, signature={}, example={},
            retirements=retirements, ends=ends,
        )  # fmt: skip
    shown = algorithm.aliases.get("champion") or usable[0].version
    manifest = plane.catalogue.manifest(name, shown)
    task = open_task(manifest)
    return AlgorithmPage(
        algorithm=algorithm,
        versions=versions,
        manifest=manifest.model_dump(mode="json"),
        signature=describe(task.signature()),
        example={"inputs": msgspec.to_builtins(task.example())},
        retirements=retirements,
        ends=ends,
    )


@router.post("/algorithms/{name}/versions", status_code=201)
def register_version(
    name: str,
    plane: Plane,
    actor: Developer,
    files: Annotated[
        list[UploadFile] | None, File(description="Each file, named by its relative path.")
    ] = None,
    source: Annotated[str, Form(description="An address in place of files: runs:/…, hf:…")] = "",
    card: Annotated[str, Form(description="JSON object: fields of algorithm.yaml.")] = "{}",
    metrics: Annotated[str, Form(description="JSON object of training metrics.")] = "{}",
) -> Version:
    """Register a model as the next version; it becomes the challenger.

    A folder with `algorithm.yaml`, an archive, or a model file of any framework that admission
    takes; what it does not say of itself stands in `card`. Answers when admission is done.
    """
    try:
        figures = msgspec.json.decode(metrics, type=dict[str, float])
        told = msgspec.json.decode(card, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise InvalidInput("`metrics` or `card` is not a JSON object.") from error
    if unknown := sorted(told.keys() - CARD):
        raise InvalidInput(f"`card` has unknown fields: {', '.join(unknown)[:200]}.")
    if bool(files) == bool(source):
        raise InvalidInput("Send files, or a `source` to fetch from: one of the two.")
    if source:
        if not is_address(source):
            raise InvalidInput(f"{source[:80]!r} is not an address that is known.")
        return plane.intake.take(source, actor, card=told, metrics=figures, expected=name)
    assert files is not None
    if len(files) > MAX_FILES:
        raise TooLarge(f"A package has at most {MAX_FILES} files.")
    with tempfile.TemporaryDirectory(dir=plane.truths.home.work) as work:
        folder = Path(work) / "package"
        size = 0
        for file in files:
            target = folder / check_relative(file.filename or "")
            if target.exists():
                raise BadPackage(f"{file.filename} was sent twice.")
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as out:
                while chunk := file.file.read(1 << 20):
                    size += len(chunk)
                    if size > MAX_PACKAGE:
                        raise TooLarge(f"A package has at most {MAX_PACKAGE} bytes.")
                    out.write(chunk)
        only = next(folder.iterdir()) if len(files) == 1 else folder
        taken = only if only.is_file() and only.name != MANIFEST else folder
        return plane.intake.take(taken, actor, card=told, metrics=figures, expected=name)


@router.post("/algorithms/{name}/versions/{target}/int8", status_code=201)
def to_int8(name: str, target: str, plane: Plane, actor: Developer) -> Version:
    """The INT8 form of a version as the next version; its admission tells sizes, times and gaps."""
    check_owner(plane, name, actor)
    version = plane.catalogue.version(Ref(name, target))
    return plane.intake.to_int8(name, version.version, actor)


@router.get("/algorithms/{name}/versions/{target}/admission")
def admission_report(name: str, target: str, plane: Plane, actor: AnyRole) -> dict[str, Any]:
    """What admission saw of a version: kind, conversion, parity, speed here, scan."""
    version = plane.catalogue.version(Ref(name, target))
    return plane.catalogue.report(name, version.version)


@router.get("/algorithms/{name}/versions/{target}")
def get_version(name: str, target: str, plane: Plane, actor: AnyRole) -> Version:
    """One version, by number or alias."""
    return plane.catalogue.version(Ref(name, target))


@router.get("/algorithms/{name}/aliases")
def alias_history(name: str, plane: Plane, actor: AnyRole) -> list[AliasMove]:
    """Who moved which alias when, newest first."""
    plane.catalogue.algorithm(name)
    return plane.truths.history.moves(name)


@router.post("/algorithms/{name}/promotions")
def promote(name: str, new: NewPromotion, plane: Plane, actor: Developer) -> Promotion:
    """Ask for a version behind an alias; refused with the failing numbers of its gate."""
    check_owner(plane, name, actor)
    return plane.lifecycle.promote(name, new.version, new.alias, actor, source=new.source)


@router.post("/algorithms/{name}/rollback")
def roll_back(name: str, plane: Plane, actor: Developer, alias: str = "champion") -> AliasMove:
    """Point an alias to the version before."""
    check_owner(plane, name, actor)
    return plane.lifecycle.roll_back(name, alias, actor)


@router.put("/algorithms/{name}/approval/{rule}")
def set_approval(
    name: str, rule: Literal["self", "four-eyes"], plane: Plane, actor: Developer
) -> Algorithm:
    """Who may approve this algorithm's promotions; in production an admin alone may loosen it."""
    check_owner(plane, name, actor)
    if rule == "self" and plane.truths.settings.profile == "production" and actor.role != "admin":
        raise NotAllowed("In production only an admin allows self-approval.")
    plane.truths.history.set_approval(name, rule, actor)
    return plane.catalogue.algorithm(name)


@router.get("/promotions")
def list_promotions(plane: Plane, actor: AnyRole, state: str = "") -> list[Promotion]:
    """Promotions, newest first."""
    return plane.truths.history.promotions(state=state)


@router.post("/promotions/{promotion_id}/approve")
def approve(promotion_id: str, plane: Plane, actor: Developer) -> Promotion:
    """The second pair of eyes."""
    for waiting in plane.truths.history.promotions(state="waiting"):
        if waiting.id == promotion_id:
            check_owner(plane, waiting.algorithm, actor)
    return plane.lifecycle.approve(promotion_id, actor)


@router.post("/promotions/{promotion_id}/withdraw")
def withdraw(promotion_id: str, plane: Plane, actor: Developer) -> Promotion:
    """Take a waiting promotion back."""
    return plane.truths.history.withdraw(promotion_id, actor)


def _info(scenario: Scenario) -> ScenarioInfo:
    return ScenarioInfo(
        name=scenario.name, title_zh=scenario.title.zh, title_en=scenario.title.en,
        domain=scenario.domain, task=scenario.task, question=scenario.question,
        metrics=list(scenario.metrics), gate=[rule_text(rule) for rule in scenario.gate],
    )  # fmt: skip


@router.get("/scenarios")
def list_scenarios(plane: Plane, actor: AnyRole) -> list[ScenarioInfo]:
    """All scenarios, shipped and added."""
    return [_info(s) for s in scenarios(plane.truths.home.scenarios).values()]


@router.get("/scenarios/{name}/league")
def league(name: str, plane: Plane, actor: AnyRole) -> list[Evaluation]:
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
def start_evaluation(name: str, new: NewEvaluation, plane: Plane, actor: Developer) -> Evaluation:
    """Evaluate a version; look at the evaluation until it is done or failed."""
    if new.data and actor.role != "admin" and plane.truths.settings.profile == "production":
        raise NotAllowed("In production only an admin names paths on the platform's machine.")
    return plane.evaluation.ask(name, new, actor)


@router.get("/evaluations")
def list_evaluations(
    plane: Plane, actor: AnyRole, algorithm: str = "", limit: int = 50
) -> list[Evaluation]:
    """Evaluations, newest first."""
    return plane.truths.evaluations.find(algorithm=algorithm, limit=min(limit, 500))


@router.get("/evaluations/{evaluation_id}")
def get_evaluation(evaluation_id: str, plane: Plane, actor: AnyRole) -> Evaluation:
    """One evaluation."""
    return plane.truths.evaluations.get(evaluation_id)
