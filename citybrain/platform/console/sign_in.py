"""Sign in with a key, sign out, choose a language."""

from __future__ import annotations

import time
from collections import deque
from urllib.parse import parse_qsl, urlsplit

from fastapi import Request, Response
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool

from citybrain.core.errors import NotAllowed, NotSignedIn, TooLarge
from citybrain.core.keys import is_mistyped, key_digest, sign_session
from citybrain.core.schemas import Key
from citybrain.platform.api.access import key_of, plane
from citybrain.platform.console.door import (
    LANGUAGE_COOKIE,
    is_secure,
    local_path,
    pages,
    show,
    to_page,
)
from citybrain.platform.console.texts import LANGUAGES
from citybrain.platform.wiring import ControlPlane
from citybrain.serving.gateway.messages import SESSION
from citybrain.storage.moments import now

router = pages()
SECONDS = 8 * 3600
MAX_FORM = 4096
YEAR = 365 * 24 * 3600


class Attempts:
    """Counts wrong keys by address in a sliding window; in memory, so a restart forgives."""

    def __init__(self, most: int = 10, window: float = 60.0, addresses: int = 10_000) -> None:
        self._most = most
        self._window = window
        self._addresses = addresses
        self._failed: dict[str, deque[float]] = {}

    def wait(self, address: str) -> int:
        """Seconds until this address may try again; 0: now."""
        failed = self._failed.get(address, deque())
        while failed and failed[0] <= time.monotonic() - self._window:
            failed.popleft()
        if not failed:
            self._failed.pop(address, None)
        return (
            0 if len(failed) < self._most else int(failed[0] + self._window - time.monotonic()) + 1
        )

    def fail(self, address: str) -> None:
        """Note a wrong key."""
        if address not in self._failed and len(self._failed) >= self._addresses:
            self._failed.pop(next(iter(self._failed)))
        self._failed.setdefault(address, deque()).append(time.monotonic())


def attempts(request: Request) -> Attempts:
    """The counter of this application."""
    state = request.app.state
    if not hasattr(state, "attempts"):
        state.attempts = Attempts()
    found: Attempts = state.attempts
    return found


@router.get("/login")
def sign_in_page(request: Request, next: str = "/") -> Response:  # noqa: A002 - the name in the URL
    """The form; who is signed in already goes on."""
    try:
        key_of(request)
    except NotSignedIn:
        return show(request, "login.html", next=local_path(next), error="", home=_home(request))
    return RedirectResponse(local_path(next), 303)


@router.post("/login")
async def sign_in(request: Request) -> Response:
    """Check the key; a session cookie that scripts cannot read and other sites cannot send."""
    if not _from_here(request):
        raise NotAllowed("This form was not sent from the platform's own page.")
    form = await _form(request)
    wanted = local_path(form.get("next", "/"))
    who = request.client.host if request.client else ""
    counter = attempts(request)
    if wait := counter.wait(who):
        refused = _again(request, wanted, "login.too_many", 429)
        refused.headers["retry-after"] = str(wait)
        return refused
    shown = form.get("key", "").strip()
    control = plane(request)
    key = await run_in_threadpool(_living, control, shown)
    if key is None:
        counter.fail(who)
        reason = "login.mistyped" if is_mistyped(shown) else "login.unknown"
        return _again(request, wanted, reason, 401)
    response = RedirectResponse(wanted, 303)
    response.set_cookie(
        SESSION, sign_session(control.truths.pepper, key.id, SECONDS), max_age=SECONDS,
        httponly=True, samesite="strict", secure=is_secure(request),
    )  # fmt: skip
    return response


@router.post("/logout")
def sign_out(request: Request) -> Response:
    """Forget the session in this browser."""
    if request.headers.get("x-requested-with") != "citybrain":
        raise NotAllowed("This call was not sent from the platform's own page.")
    response = to_page(request, "/login")
    response.delete_cookie(SESSION, httponly=True, samesite="strict", secure=is_secure(request))
    return response


@router.get("/language/{name}")
def choose_language(request: Request, name: str, next: str = "/") -> Response:  # noqa: A002
    """Keep the language that somebody chose."""
    response = RedirectResponse(local_path(next), 303)
    if name in LANGUAGES:
        response.set_cookie(
            LANGUAGE_COOKIE, name, max_age=YEAR, samesite="lax", secure=is_secure(request)
        )
    return response


def _again(request: Request, wanted: str, reason: str, status: int) -> Response:
    return show(request, "login.html", code=status, next=wanted, error=reason, home=_home(request))


def _home(request: Request) -> bool:
    """Whether to say where the first key lies: only on one's own machine."""
    return plane(request).truths.settings.profile == "embedded"


def _living(control: ControlPlane, shown: str) -> Key | None:
    living = dict(control.truths.people.living_keys(now()))
    return living.get(key_digest(control.truths.pepper, shown))


def _from_here(request: Request) -> bool:
    """Whether a page of this very site sent the form: else a stranger could sign us in as him."""
    if request.headers.get("x-requested-with") == "citybrain":
        return True
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("origin", "")
    return bool(origin) and urlsplit(origin).netloc == request.headers.get("host", "")


async def _form(request: Request) -> dict[str, str]:
    raw = b""
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > MAX_FORM:
            raise TooLarge("This form is longer than a key can be.")
    return dict(parse_qsl(raw.decode(errors="replace")))
