"""How scenarios are used: the operation evaluation, and algorithms that hardly anybody calls."""

from __future__ import annotations

from typing import Annotated

from fastapi import Request, Response

from citybrain.core.schemas import Key
from citybrain.evaluation.scenario import find_scenario
from citybrain.platform.api.access import Plane, may_key
from citybrain.platform.console.door import pages, scenario_names, show
from citybrain.platform.policy import allows

router = pages()
Visitor = Annotated[Key, may_key("operation.read")]


@router.get("/scenarios")
def scenarios(request: Request, plane: Plane, key: Visitor) -> Response:
    """All scenarios side by side, and the algorithms of low use for those who oversee."""
    return show(
        request, "scenarios.html", key=key, uses=plane.operations.overview(),
        scenarios=scenario_names(request),
        low=plane.operations.low_use() if allows(key, "disuse.read") else None,
        algorithms={one.name: one for one in plane.catalogue.algorithms()},
        titles={one.name: one for one in plane.truths.people.departments()},
    )  # fmt: skip


@router.get("/scenarios/{name}")
def scenario(request: Request, name: str, plane: Plane, key: Visitor) -> Response:
    """One scenario, with the eight weeks before."""
    found = find_scenario(name, plane.truths.home.scenarios)
    use = plane.operations.scenario(name)
    return show(
        request, "scenario.html", key=key, name=name, about=found, use=use,
        most=max(1, *(week.requests for week in use.trend)),
    )  # fmt: skip
