"""Sign in by password and code or with a key, choose a password, sign out, choose a language."""

from __future__ import annotations

import contextlib
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from fastapi import Request, Response
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool

from citybrain.core.errors import (
    CityBrainError,
    Conflict,
    InvalidInput,
    NotAllowed,
    NotSignedIn,
    Overloaded,
    SignInFailed,
    TooLarge,
    WeakPassword,
)
from citybrain.core.keys import is_mistyped, sign_session
from citybrain.core.schemas import Key
from citybrain.core.schemas.users import SECOND_FACTOR
from citybrain.platform import factors
from citybrain.platform.api.access import check_place, key_of, living_key, may, may_key, plane
from citybrain.platform.console.attempts import crowd
from citybrain.platform.console.door import (
    LANGUAGE_COOKIE,
    is_secure,
    local_path,
    pages,
    show,
    sign_in_form,
    to_page,
)
from citybrain.platform.console.texts import LANGUAGES
from citybrain.platform.reception import SESSION as SESSION_TIME
from citybrain.platform.reception import Choice
from citybrain.serving.gateway.messages import SESSION

router = pages()
SECONDS = int(SESSION_TIME.total_seconds())
MAX_FORM = 4096
YEAR = 365 * 24 * 3600
OPEN = [may("session.open")]


@router.get("/login", dependencies=OPEN)
def sign_in_page(request: Request, next: str = "/") -> Response:  # noqa: A002 - the name in the URL
    """The form; who is signed in already goes on."""
    try:
        key_of(request)
    except CityBrainError:
        return sign_in_form(request, local_path(next), code=200)
    return RedirectResponse(local_path(next), 303)


@router.post("/login", dependencies=OPEN)
async def sign_in(request: Request) -> Response:
    """Check what is shown; a session cookie that scripts cannot read and other sites cannot send."""
    form = await _form(request)
    wanted, people = local_path(form.get("next", "/")), crowd(request)
    if refused := _too_many(request, wanted):
        return refused
    try:
        if "key" in form:
            found: Key | Choice = await run_in_threadpool(_with_key, request, form["key"].strip())
        else:
            shown = (form.get("name", "").strip(), form.get("password", ""), form.get("code", ""))
            found = await people.one_by_one(plane(request).reception.sign_in, *shown)
    except Overloaded:
        return sign_in_form(request, wanted, "login.too_many", code=429)
    except NotSignedIn as error:
        people.attempts.fail(_address(request))
        return sign_in_form(request, wanted, _reason(error, form))
    if isinstance(found, Choice):
        return _choosing(request, found, wanted)
    return _signed_in(request, found, RedirectResponse(wanted, 303))


@router.post("/login/choose", dependencies=OPEN)
async def choose(request: Request) -> Response:
    """Keep the password (and the codes) that somebody chose who came with a one-time password."""
    form = await _form(request)
    wanted, people = local_path(form.get("next", "/")), crowd(request)
    if refused := _too_many(request, wanted):
        return refused
    ticket, reception = form.get("ticket", ""), plane(request).reception
    chosen = (form.get("password", ""), form.get("again", ""), form.get("code", "").strip())
    try:
        key = await people.one_by_one(reception.choose, ticket, *chosen)
    except Overloaded:
        return sign_in_form(request, wanted, "login.too_many", code=429)
    except SignInFailed:
        people.attempts.fail(_address(request))
        return sign_in_form(request, wanted, "login.wrong")
    except InvalidInput as error:
        weak = isinstance(error, WeakPassword)
        differ = "choose.differ" if chosen[0] != chosen[1] else "choose.code_wrong"
        again = await run_in_threadpool(reception.choice, ticket)
        return _choosing(request, again, wanted, "choose.weak" if weak else differ, 422)
    return _signed_in(request, key, RedirectResponse(wanted, 303))


@router.post("/logout", dependencies=OPEN)
def sign_out(request: Request) -> Response:
    """End the session, here and everywhere; a service key goes on, it is only forgotten here."""
    if request.headers.get("x-requested-with") != "citybrain":
        raise NotAllowed("This call was not sent from the platform's own page.")
    with contextlib.suppress(CityBrainError):  # it may have ended already
        plane(request).truths.users.close_session(key_of(request))
    response = to_page(request, "/login")
    response.delete_cookie(SESSION, httponly=True, samesite="strict", secure=is_secure(request))
    return response


@router.get("/account")
def account(request: Request, key: Annotated[Key, may_key("session.own")]) -> Response:
    """Who one is here, and a form for another password."""
    people = {one.name: one for one in plane(request).truths.users.find()} if key.user else {}
    return show(request, "account.html", key=key, user=people.get(key.user))


@router.post("/account/password")
async def change_password(
    request: Request, key: Annotated[Key, may_key("session.own")]
) -> Response:
    """Another password; every other session of this person ends."""
    if not key.user:
        raise Conflict("A key has no password.", hint="Sign in with your name.")
    form = await _form(request)
    shown = [form.get(field, "") for field in ("old", "code", "password", "again")]
    reception = plane(request).reception
    try:
        fresh = await crowd(request).one_by_one(reception.change_password, key, *shown)
    except SignInFailed as error:  # who asks is signed in: no reason to show the form for that
        raise NotAllowed("The old password or the code is wrong.", hint=error.hint) from error
    return _signed_in(request, fresh, to_page(request, "/account"))


@router.get("/language/{name}", dependencies=[may("console.language")])
def choose_language(request: Request, name: str, next: str = "/") -> Response:  # noqa: A002
    """Keep the language that somebody chose."""
    response = RedirectResponse(local_path(next), 303)
    if name in LANGUAGES:
        response.set_cookie(
            LANGUAGE_COOKIE, name, max_age=YEAR, samesite="lax", secure=is_secure(request)
        )
    return response


def _with_key(request: Request, shown: str) -> Key:
    """A service key that may open a session here."""
    control = plane(request)
    key = living_key(control, shown)
    check_place(request, key)
    if control.truths.settings.profile == "production" and key.role in SECOND_FACTOR:
        raise SignInFailed("In production admins and auditors sign in as persons.")
    return key


def _reason(error: NotSignedIn, form: dict[str, str]) -> str:
    """The text that says what is wrong; of persons it says no more than that something is."""
    if "key" not in form:
        return "login.wrong"
    if isinstance(error, SignInFailed):
        return "login.persons"
    return "login.mistyped" if is_mistyped(form["key"].strip()) else "login.unknown"


def _choosing(
    request: Request, choice: Choice, wanted: str, error: str = "", code: int = 200
) -> Response:
    return show(
        request, "choose.html", code=code, choice=choice, next=wanted, error=error,
        picture=factors.picture(choice.secret, choice.name), shortest=factors.SHORTEST,
    )  # fmt: skip


def _signed_in(request: Request, key: Key, response: Response) -> Response:
    response.set_cookie(
        SESSION, sign_session(plane(request).truths.pepper, key.id, SECONDS), max_age=SECONDS,
        httponly=True, samesite="strict", secure=is_secure(request),
    )  # fmt: skip
    return response


def _too_many(request: Request, wanted: str) -> Response | None:
    wait = crowd(request).attempts.wait(_address(request))
    if not wait:
        return None
    refused = sign_in_form(request, wanted, "login.too_many", code=429)
    refused.headers["retry-after"] = str(wait)
    return refused


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


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
    if not _from_here(request):
        raise NotAllowed("This form was not sent from the platform's own page.")
    raw = b""
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > MAX_FORM:
            raise TooLarge("This form is longer than what is asked for can be.")
    return dict(parse_qsl(raw.decode(errors="replace"), keep_blank_values=True))
