"""The catalogue, and everything about one algorithm."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from citybrain.core.schemas import (
    Actor,
    Algorithm,
    AlgorithmPage,
    Card,
    Conversion,
    Deployment,
    Evaluation,
    Key,
)
from citybrain.models.package import Manifest
from citybrain.models.task import open_task
from citybrain.platform.api.access import (
    Plane,
    may_key,
    seen_conversions,
    seen_evaluations,
)
from citybrain.platform.api.algorithms import get_algorithm
from citybrain.platform.api.bills import ratings
from citybrain.platform.console.cards import as_markdown
from citybrain.platform.console.door import (
    address,
    language_of,
    pages,
    show,
)
from citybrain.platform.console.drawing import Drawing, draw
from citybrain.platform.console.figures import by_day, intervals
from citybrain.platform.console.notices import affected, champion_changes
from citybrain.platform.console.snippets import Example, curl, python_client, tritonclient
from citybrain.platform.policy import allows, reaches, whose
from citybrain.platform.wiring import ControlPlane

router = pages()
Visitor = Annotated[Key, may_key("algorithm.read")]
FORMS = {
    "object-detection": "image",
    "image-classification": "image",
    "transcription": "audio",
    "text-classification": "text",
    "speech-synthesis": "text",
    "forecasting": "series",
    "tabular-classification": "table",
}
"""Which form a task is tried with; others get an editor for their JSON."""
RATED = 20
"""Ratings that are shown, the newest."""
DRAWN = 6
"""Versions whose lineage is drawn."""
BEST_FIRST = ("running", "starting", "waiting", "failed", "removing")


@router.get("/algorithms")
def catalogue(
    request: Request, plane: Plane, key: Visitor, q: str = "", domain: str = "", task: str = ""
) -> Response:
    """All algorithms, or those that fit what was searched for."""
    everything = plane.catalogue.algorithms()
    fitting = [found for found in everything if _fits(found, q[:100], domain, task)]
    states = _states(plane.truths.deployments.all())
    done = plane.truths.evaluations.find(state="done", limit=1000)
    measured = _measured(one for one in done if not one.data)
    return show(
        request, "catalogue.html", key=key, found=fitting, total=len(everything), q=q[:100],
        domain=domain, task=task, states=states, measured=measured,
        domains=sorted({a.domain for a in everything}), tasks=sorted({a.task for a in everything}),
        owners={d.name: d for d in plane.truths.people.departments()},
    )  # fmt: skip


def _fits(algorithm: Algorithm, wanted: str, domain: str, task: str) -> bool:
    one = algorithm
    said = (one.name, one.title_zh, one.title_en, one.description, one.owner)
    text = " ".join(said).casefold()
    return (
        all(part in text for part in wanted.casefold().split())
        and domain in ("", one.domain)
        and task in ("", one.task)
    )


def _states(deployments: Iterable[Deployment]) -> dict[str, str]:
    """The best state among an algorithm's deployments."""
    found: dict[str, str] = {}
    for one in deployments:
        known = found.get(one.algorithm, one.state)
        found[one.algorithm] = min(known, one.state, key=BEST_FIRST.index)
    return found


def _measured(evaluations: Iterable[Evaluation]) -> dict[tuple[str, int], tuple[Evaluation, str]]:
    """The newest evaluation of each version, and its first metric: a scenario's main one."""
    found: dict[tuple[str, int], tuple[Evaluation, str]] = {}
    for one in evaluations:
        if one.report.get("metrics"):
            main = next(iter(one.report["metrics"]))
            found.setdefault((one.algorithm, one.version), (one, main))
    return found


@router.get("/algorithms/{name}")
def algorithm_page(request: Request, name: str, plane: Plane, key: Visitor) -> Response:
    """Facts, versions, evaluations, history, how to call it, and a place to try it."""
    found = get_algorithm(name, plane, Actor.of(key))
    evaluations = plane.truths.evaluations.find(algorithm=name, limit=40)
    deployments = [d for d in plane.reconciler.deployments() if d.algorithm == name]
    return show(
        request, "algorithm.html", key=key, page=found, one=found.algorithm,
        evaluations=[
            (one, intervals(one.report)) for one in seen_evaluations(plane, key, evaluations)[:12]
        ],
        deployments=deployments, moves=plane.truths.history.moves(name)[:50],
        promotions=plane.truths.history.promotions(name)[:20],
        owner=next(
            (d for d in plane.truths.people.departments() if d.name == found.algorithm.owner), None
        ),
        may_approve=reaches(key, "promotion.decide", found.algorithm.owner),
        admissions={v.version: plane.forms.admission(v) for v in found.versions[:10]},
        traffic=plane.truths.traffics.get(name),
        canary=next(iter(plane.truths.traffics.canaries(name, limit=1)), None),
        conversions=_latest(seen_conversions(plane, key, plane.truths.conversions.find(name))),
        card=_card(plane, found), drawing=_drawing(plane, found, deployments, key),
        changes=champion_changes(plane, name)[:3], affected=affected(plane, key).get(name, []),
        department_titles={d.name: d for d in plane.truths.people.departments()},
        retired={r.version: r for r in found.retirements},
        failures={failure.version: failure for failure in found.failures},
        withdrawn={e.version: e for e in found.ends if e.kind == "withdrawn"},
        granted=_granted(plane, key.department, name),
        ratings=ratings(name, plane, Actor.of(key))[:RATED] if allows(key, "rating.read") else [],
        pinned=next(
            (p.version for p in plane.controls.pins(key.department) if p.algorithm == name), 0
        ),
        usage=_usage(plane, whose(key, "usage.read"), name),
        **_trying(found, address(request)),
    )  # fmt: skip


@router.get("/algorithms/{name}/card.md")
def card_file(request: Request, name: str, plane: Plane, key: Visitor) -> Response:
    """The card in the reader's language, as a file to keep or to publish."""
    found = plane.cards.card(get_algorithm(name, plane, Actor.of(key)).algorithm.name)
    disposition = f'attachment; filename="{found.algorithm}-{found.version}.md"'
    return Response(
        as_markdown(found, language_of(request)), media_type="text/markdown; charset=utf-8",
        headers={"content-disposition": disposition},
    )  # fmt: skip


def _card(plane: ControlPlane, page: AlgorithmPage) -> Card | None:
    return plane.cards.card(page.algorithm.name) if page.manifest else None


def _drawing(
    plane: ControlPlane, page: AlgorithmPage, deployments: list[Deployment], key: Key
) -> Drawing | None:
    """The lineage of the versions that matter now: named by an alias, or deployed."""
    if not page.versions:
        return None
    known = [version.version for version in page.versions]
    named = {*page.algorithm.aliases.values(), *(one.version for one in deployments)}
    shown = [version for version in known if version in named][:DRAWN] or known[:1]
    seen_by = "" if reaches(key, "caller.read", page.algorithm.owner) else key.department
    return draw(plane.lineage.around(page.algorithm.name, shown, seen_by=seen_by))


@router.get("/algorithms/{name}/example.json")
def example_file(name: str, plane: Plane, key: Visitor) -> Response:
    """A valid body of a call, to save and send."""
    found = get_algorithm(name, plane, Actor.of(key))
    disposition = f'attachment; filename="{found.algorithm.name}-example.json"'
    return JSONResponse(found.example, headers={"content-disposition": disposition})


def _trying(page: AlgorithmPage, url: str) -> dict[str, Any]:
    if not page.manifest:
        return {"form": "", "snippets": [], "labels": {}}
    task = open_task(Manifest.model_validate(page.manifest))
    example = Example(page.algorithm.name, task.media, page.example, page.signature, url)
    options = page.manifest.get("options", {})
    return {
        "form": FORMS.get(page.algorithm.task, "json"),
        "snippets": [
            ("curl", curl(example)),
            ("tritonclient", tritonclient(example)),
            ("citybrain", python_client(example)),
        ],
        "labels": options.get("titles", {}),
    }


def _latest(conversions: Iterable[Conversion]) -> dict[int, list[Conversion]]:
    """Of each version the newest conversion to each form that is under way or failed."""
    newest: dict[tuple[int, str], Conversion] = {}
    for one in conversions:
        newest.setdefault((one.version, one.form), one)
    found: dict[int, list[Conversion]] = {}
    for one in newest.values():
        if one.state != "done":
            found.setdefault(one.version, []).append(one)
    return found


def _granted(plane: ControlPlane, department: str, name: str) -> bool:
    """Whether this department may call it; the platform's own department may call everything."""
    now = datetime.now(plane.truths.settings.zone)
    return department == "platform" or any(
        grant.algorithm == name and grant.revoked_at is None
        and (grant.until is None or grant.until > now)
        for grant in plane.truths.people.grants(department)
    )  # fmt: skip


def _usage(plane: ControlPlane, department: str, name: str) -> dict[str, list[Any]]:
    today = datetime.now(plane.truths.settings.zone).date()
    days = [(today - timedelta(days=back)).isoformat() for back in reversed(range(30))]
    lines = plane.truths.usage.days(department=department, since=days[0], limit=20_000)
    return by_day([line for line in lines if line.algorithm == name], days)
