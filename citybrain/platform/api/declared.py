"""What the routes of an application say of themselves, and that each of them says something."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.routing import compile_path

from citybrain.platform.api.access import Permission
from citybrain.platform.policy import POLICY


class Declared(NamedTuple):
    """A route and the actions that it may take; more than one where a door decides by the call."""

    methods: frozenset[str]
    path: str
    actions: tuple[str, ...]
    permission: Permission | None
    """None: its door reads the key itself."""


def declared(app: FastAPI) -> Iterator[Declared]:
    """Every route of an application, the mounted ones too."""
    for route in iter_route_contexts(app.routes):
        methods = frozenset(getattr(route, "methods", None) or ())
        found = next(_permissions(getattr(route, "dependant", None)), None)
        if found is not None:
            yield Declared(methods, str(route.path), (found.action,), found)
            continue
        doors: list[Any] = [getattr(route, place, None) for place in ("endpoint", "app")]
        actions = next((door.actions for door in doors if hasattr(door, "actions")), ())
        yield Declared(methods, str(route.path), actions, None)


def open_paths(app: FastAPI) -> Callable[[str], bool]:
    """Whether a path takes no key here: it is public, or its door reads the key itself.

    RuntimeError for an application with a route that declares no action of the policy.
    """
    found = []
    for route in declared(app):
        if not route.actions or any(action not in POLICY for action in route.actions):
            raise RuntimeError(f"{sorted(route.methods)} {route.path} declares no action.")
        public = all(POLICY[action].anonymous for action in route.actions)
        if public or route.permission is None:
            found.append(compile_path(route.path)[0])
    return lambda path: any(pattern.match(path) for pattern in found)


def _permissions(dependant: Any) -> Iterator[Permission]:
    for one in getattr(dependant, "dependencies", ()):
        if isinstance(one.call, Permission):
            yield one.call
        yield from _permissions(one)
