"""Algorithms, versions, conversions and promotions."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, File, Form, UploadFile

from citybrain.core.errors import BadPackage, InvalidInput, TooLarge
from citybrain.core.names import Ref
from citybrain.core.schemas import (
    Actor,
    Algorithm,
    AlgorithmPage,
    AliasMove,
    Conversion,
    Key,
    NewConversion,
    NewPromotion,
    Promotion,
    PromotionNotice,
    Version,
)
from citybrain.models.package import CARD, MANIFEST, MAX_FILES, check_relative
from citybrain.models.task import open_task
from citybrain.platform.api.access import (
    Plane,
    may,
    may_key,
    seen_conversions,
)
from citybrain.platform.policy import check
from citybrain.registry.sources import is_address
from citybrain.serving.gateway.descriptions import describe

router = APIRouter(tags=["algorithms"])
Reader = Annotated[Actor, may("algorithm.read")]
MAX_PACKAGE = 2 << 30


@router.get("/algorithms")
def list_algorithms(plane: Plane, actor: Reader) -> list[Algorithm]:
    """The catalogue: every department may look, calling takes a grant."""
    return plane.catalogue.algorithms()


@router.get("/algorithms/{name}")
def get_algorithm(name: str, plane: Plane, actor: Reader) -> AlgorithmPage:
    """One algorithm with its versions, its tensors and an example call."""
    algorithm = plane.catalogue.algorithm(name)
    versions = plane.catalogue.versions(name)
    ends = plane.truths.endings.ends(name)
    closed = {end.version for end in ends}
    usable = [one for one in versions if not one.problem and one.version not in closed]
    page = AlgorithmPage(
        algorithm=algorithm, versions=versions, manifest={}, signature={}, example={},
        retirements=plane.truths.endings.retirements(name), ends=ends,
        failures=plane.truths.deployments.failures(name),
    )  # fmt: skip
    if not usable:
        return page
    shown = algorithm.aliases.get("champion") or usable[0].version
    manifest = plane.catalogue.manifest(name, shown)
    task = open_task(manifest)
    return page.model_copy(
        update={
            "manifest": manifest.model_dump(mode="json"),
            "signature": describe(task.signature()),
            "example": {"inputs": msgspec.to_builtins(task.example())},
        }
    )


@router.post("/algorithms/{name}/versions", status_code=201)
def register_version(
    name: str,
    plane: Plane,
    actor: Annotated[Actor, may("version.register", "algorithm", new=True)],
    files: Annotated[
        list[UploadFile] | None, File(description="Each file, named by its relative path.")
    ] = None,
    source: Annotated[
        str, Form(description="An address in place of files: runs:/…, hf:…, triton://…")
    ] = "",
    card: Annotated[str, Form(description="JSON object: fields of algorithm.yaml.")] = "{}",
    metrics: Annotated[str, Form(description="JSON object of training metrics.")] = "{}",
    scenario: Annotated[
        str, Form(description="Whose samples a conversion is compared on; empty: the last exam's.")
    ] = "",
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
    if unknown := sorted(told.keys() - CARD - {"architecture"}):
        raise InvalidInput(f"`card` has unknown fields: {', '.join(unknown)[:200]}.")
    if bool(files) == bool(source):
        raise InvalidInput("Send files, or a `source` to fetch from: one of the two.")
    wanted = plane.exam_data.scenario_for(name, scenario, str(told.get("task", "")))
    take = partial(
        plane.intake.take, actor=actor, card=told, metrics=figures, expected=name,
        data=plane.exam_data.of(wanted),
    )  # fmt: skip
    if source:
        if not is_address(source):
            raise InvalidInput(f"{source[:80]!r} is not an address that is known.")
        return take(source)
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
        return take(taken)


@router.post("/algorithms/{name}/versions/{target}/conversions", status_code=202)
def convert(
    name: str,
    target: str,
    new: NewConversion,
    plane: Plane,
    actor: Annotated[Actor, may("version.convert", "algorithm")],
) -> Conversion:
    """Ask for another form of a version; look at the conversion until it is done or failed."""
    return plane.conversion.ask(name, target, new, actor)


@router.get("/conversions")
def list_conversions(
    plane: Plane, actor: Annotated[Actor, may("conversion.read")], algorithm: str = ""
) -> list[Conversion]:
    """Conversions, newest first, of the caller's own algorithms unless it oversees all."""
    return seen_conversions(plane, actor, plane.truths.conversions.find(algorithm))


@router.get("/conversions/{conversion_id}")
def get_conversion(
    conversion_id: str, plane: Plane, actor: Annotated[Actor, may("conversion.read", "conversion")]
) -> Conversion:
    """One conversion, with its report when it is done."""
    return plane.truths.conversions.get(conversion_id)


@router.get("/algorithms/{name}/versions/{target}/admission")
def admission_report(name: str, target: str, plane: Plane, actor: Reader) -> dict[str, Any]:
    """What admission saw of a version and its forms: kind, conversion, parity, speed here, scan."""
    version = plane.catalogue.version(Ref(name, target))
    return plane.forms.admission(version)


@router.get("/algorithms/{name}/versions/{target}")
def get_version(name: str, target: str, plane: Plane, actor: Reader) -> Version:
    """One version, by number or alias."""
    return plane.catalogue.version(Ref(name, target))


@router.get("/algorithms/{name}/aliases")
def alias_history(name: str, plane: Plane, actor: Reader) -> list[AliasMove]:
    """Who moved which alias when, newest first."""
    plane.catalogue.algorithm(name)
    return plane.truths.history.moves(name)


@router.post("/algorithms/{name}/promotions")
def promote(
    name: str,
    new: NewPromotion,
    plane: Plane,
    actor: Annotated[Actor, may("promotion.ask", "algorithm")],
) -> Promotion:
    """Ask for a version behind an alias; refused with the failing numbers of its gate."""
    return plane.lifecycle.promote(name, new, actor)


@router.post("/algorithms/{name}/promotions/dry-run")
def look_ahead(
    name: str,
    new: NewPromotion,
    plane: Plane,
    actor: Annotated[Actor, may("promotion.ask", "algorithm")],
) -> PromotionNotice:
    """What a promotion would change and who called in the last 30 days; nothing is asked for."""
    return plane.lifecycle.notice(name, new)


@router.post("/algorithms/{name}/rollback")
def roll_back(
    name: str,
    plane: Plane,
    actor: Annotated[Actor, may("alias.roll_back", "algorithm")],
    alias: str = "champion",
) -> AliasMove:
    """Point an alias to the version before."""
    return plane.lifecycle.roll_back(name, alias, actor)


@router.put("/algorithms/{name}/approval/{rule}")
def set_approval(
    name: str,
    rule: Literal["self", "four-eyes"],
    plane: Plane,
    key: Annotated[Key, may_key("algorithm.approve", "algorithm")],
) -> Algorithm:
    """Who may approve this algorithm's promotions; in production an admin alone may loosen it."""
    if rule == "self" and plane.truths.settings.profile == "production":
        check(key, "algorithm.loosen")
    plane.truths.history.set_approval(name, rule, Actor.of(key))
    return plane.catalogue.algorithm(name)


@router.get("/promotions")
def list_promotions(
    plane: Plane, actor: Annotated[Actor, may("promotion.read")], state: str = ""
) -> list[Promotion]:
    """Promotions, newest first."""
    return plane.truths.history.promotions(state=state)


@router.get("/promotions/{promotion_id}")
def get_promotion(
    promotion_id: str, plane: Plane, actor: Annotated[Actor, may("promotion.read")]
) -> Promotion:
    """One promotion."""
    return plane.truths.history.promotion(promotion_id)


@router.post("/promotions/{promotion_id}/approve")
def approve(
    promotion_id: str, plane: Plane, actor: Annotated[Actor, may("promotion.decide", "promotion")]
) -> Promotion:
    """The second pair of eyes; `alias_moved` when the alias moved since it was asked for."""
    return plane.lifecycle.approve(promotion_id, actor)


@router.post("/promotions/{promotion_id}/withdraw")
def withdraw(
    promotion_id: str, plane: Plane, actor: Annotated[Actor, may("promotion.decide", "promotion")]
) -> Promotion:
    """Take a waiting promotion back."""
    return plane.truths.history.withdraw(promotion_id, actor)
