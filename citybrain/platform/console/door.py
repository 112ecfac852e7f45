"""What every page has in common: who looks, in which language, the headers, and errors as pages."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Coroutine
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from citybrain.core.errors import CityBrainError, NotSignedIn
from citybrain.core.schemas import Key
from citybrain.evaluation.scenario import Scenario, scenarios
from citybrain.platform.api.access import note_denial, plane
from citybrain.platform.console import figures
from citybrain.platform.console.texts import Language, choose, say, texts, verdict, word
from citybrain.platform.policy import allows
from citybrain.platform.wiring import ControlPlane
from citybrain.serving.problems import status_of

HERE = Path(__file__).parent
STATIC = HERE / "static"
LANGUAGE_COOKIE = "cb_lang"
POLICIES = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' blob: data:",
    "media-src blob:",
    "connect-src 'self'",
    "form-action 'self'",
    "frame-ancestors 'none'",
    "base-uri 'none'",
)
HEADERS = {
    "content-security-policy": "; ".join(POLICIES),
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
    "vary": "Accept-Language, Cookie",
}
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class PageRoute(APIRoute):
    """A route for people: strict headers, and errors as pages."""

    def get_route_handler(self) -> Handler:
        """Wrap FastAPI's own handler."""
        inner = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                response = await inner(request)
            except NotSignedIn:
                response = _to_sign_in(request)
            except CityBrainError as error:
                if request.headers.get("hx-request"):
                    raise  # a script asks: it reads the problem as of any other route
                note_denial(request, error)
                response = show(request, "error.html", code=status_of(error), problem=error)
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            return response

        return handler


def pages() -> APIRouter:
    """A router whose routes are pages; the OpenAPI document does not list them."""
    return APIRouter(route_class=PageRoute, include_in_schema=False)


def language_of(request: Request) -> Language:
    """The reader's language."""
    cookie = request.cookies.get(LANGUAGE_COOKIE, "")
    return choose(cookie, request.headers.get("accept-language", ""))


def is_secure(request: Request) -> bool:
    """Whether the browser speaks https, here or to a named proxy; in production it has to."""
    return request.url.scheme == "https" or plane(request).truths.settings.profile == "production"


def address(request: Request) -> str:
    """The platform's address as this browser knows it."""
    host = request.headers.get("host", "")
    if not re.fullmatch(r"[A-Za-z0-9.:\[\]-]{1,255}", host):  # it is shown inside commands to copy
        host = "127.0.0.1:8080"
    return f"{'https' if is_secure(request) else 'http'}://{host}"


def local_path(wanted: str) -> str:
    """A path of this site, never another host's."""
    plain = wanted.startswith("/") and not wanted.startswith(("//", "/\\"))
    return wanted if plain and wanted.isprintable() else "/"


def to_page(request: Request, path: str) -> Response:
    """Send the browser there, whether it asked for a page or a part of one."""
    if request.headers.get("hx-request"):
        return Response(status_code=204, headers={"hx-redirect": path})
    return RedirectResponse(path, 303)


def _to_sign_in(request: Request) -> Response:
    """401 with the form to sign in, which leads back here; a part of a page sends all of it there."""
    if request.headers.get("hx-request"):
        return Response(status_code=401, headers={"hx-redirect": "/login"})
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return sign_in_form(request, wanted if request.method == "GET" else "/")


def sign_in_form(request: Request, wanted: str, error: str = "", *, code: int = 401) -> Response:
    """The form; on one's own machine with the place of the first key."""
    truths = plane(request).truths
    home = truths.settings.profile == "embedded"
    return show(
        request, "login.html", code=code, next=local_path(wanted), error=error, home=home,
        people=not home or truths.users.any(),
    )  # fmt: skip


@cache
def _templates() -> Environment:
    found = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    found.globals |= {
        "asset": asset,
        "number": figures.number,
        "yuan": figures.yuan,
        "as_json": _as_json,
    }
    return found


def show(
    request: Request, template: str, *, code: int = 200, key: Key | None = None, **facts: Any
) -> HTMLResponse:
    """A page in the reader's language."""
    language = language_of(request)
    zone = plane(request).truths.settings.zone

    def moment(at: datetime | None, form: str = "%Y-%m-%d %H:%M") -> str:
        return at.astimezone(zone).strftime(form) if at else ""

    def t(name: str, /, **values: object) -> str:
        return say(language, name, **values)

    def may(action: str) -> bool:
        return key is not None and allows(key, action)

    def word_of(kind: str, name: str) -> str:
        return word(language, kind, name)

    def title(thing: Any) -> str:
        return str(thing.title_zh if language == "zh" else thing.title_en)

    def says(sentence: str) -> str:
        return verdict(language, sentence)

    def names(departments: list[str], titles: dict[str, Any]) -> str:
        said = [title(titles[name]) if name in titles else name for name in departments]
        return ("、" if language == "zh" else ", ").join(said) or t("promotion.nobody")

    def scenario(name: str) -> str:
        return scenario_names(request).get(name, name)

    def own() -> str:
        people = plane(request).truths.people.departments()
        return next((title(one) for one in people if key and one.name == key.department), "")

    def unread() -> int:
        return plane(request).notices.unread(key.department) if key else 0

    for_scripts = {k: v for k, v in texts(language).items() if k.startswith("js.")}
    page = _templates().get_template(template)
    return HTMLResponse(
        page.render(
            t=t, may=may, word=word_of, title=title, moment=moment, says=says, names=names, unread=unread, own=own,
            scenario=scenario, zone=zone.key, language=language,
            visitor=key, path=request.url.path, query=request.url.query,
            for_scripts=for_scripts, **facts,
        ),
        code,
    )  # fmt: skip


def scenario_names(request: Request) -> dict[str, str]:
    """What each scenario is called in the reader's language."""
    language = language_of(request)
    return {
        name: found.title.zh if language == "zh" else found.title.en
        for name, found in _scenarios(plane(request)).items()
    }


def _scenarios(control: ControlPlane) -> dict[str, Scenario]:
    try:
        return scenarios(control.truths.home.scenarios)
    except CityBrainError:  # one broken file of the city's own must not take pages away
        return scenarios()


def _as_json(value: Any) -> str:
    """JSON for a data attribute; autoescape makes it safe there."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


@cache
def _edition() -> str:
    """Changes whenever a static file changes, so that browsers may keep them for ever."""
    digest = hashlib.sha256()
    for path in sorted(STATIC.rglob("*")):
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def asset(name: str) -> str:
    """The address of a static file in its present edition."""
    return f"/static/{name}?v={_edition()}"


class Assets(StaticFiles):
    """The console's own files."""

    actions = ("console.files",)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """A file with its cache rule: kept for a year under its edition, else asked again."""
        response = await super().get_response(path, scope)
        kept = f"v={_edition()}".encode() == scope.get("query_string", b"")
        rule = "public, max-age=31536000, immutable" if kept else "public, no-cache"
        response.headers["cache-control"] = rule
        response.headers["content-security-policy"] = "default-src 'none'"
        response.headers["x-content-type-options"] = "nosniff"
        return response
