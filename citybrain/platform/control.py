"""The control process: control API, console, reconciler, loader; the only writer of MLflow and Feast."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import orjson
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.routing import Route

from citybrain import __version__
from citybrain.core.categories import Ban
from citybrain.core.errors import (
    BadJson,
    CityBrainError,
    ForbiddenCategory,
    InvalidInput,
    NotFound,
    TooLarge,
)
from citybrain.core.home import reserve_socket
from citybrain.core.settings import Settings
from citybrain.platform.api import (
    algorithms,
    audits,
    bills,
    grants,
    jobs,
    lifecycle,
    people,
    predictions,
    quotas,
    retention,
    rollouts,
    running,
    scenarios,
    signers,
    users,
)
from citybrain.platform.api.access import key_of, may, note_denial
from citybrain.platform.api.declared import open_paths
from citybrain.platform.console import pages
from citybrain.platform.logs import log_to
from citybrain.platform.tracking.door import Door
from citybrain.platform.tracking.server import PREFIX
from citybrain.platform.wiring import ControlPlane, build
from citybrain.serving.problems import problem_body, status_of

log = logging.getLogger(__name__)
Next = Callable[[Request], Awaitable[Response]]
MAX_JSON = 1 << 20


def create_app(plane: ControlPlane) -> FastAPI:
    """The control API and the console over a control plane."""
    door = Door(plane)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        stop = threading.Event()
        plane.reconciler.start()
        plane.evaluation.start()
        plane.conversion.start()
        plane.jobs.start()
        threading.Thread(target=_apply_features, args=(plane,), daemon=True).start()
        for work, pause in (
            (lambda: _load(plane), 0.5), (plane.projection.run, _poll(plane)),
            (plane.rollouts.step, 1.0), (plane.repeats.purge, 600.0),
            (plane.audits.run, 60.0), (plane.retention.run, 600.0), (plane.denials.run, 1.0),
            (plane.notices.grants_that_end, 3600.0), (plane.predictions.run, plane.predictions.pause),
        ):  # fmt: skip
            threading.Thread(target=_repeat, args=(work, pause, stop), daemon=True).start()
        yield
        stop.set()
        await door.close()
        plane.reconciler.close()
        plane.evaluation.close()
        plane.jobs.close()
        plane.denials.own.close()

    app = FastAPI(
        title="citybrain",
        version=__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.plane = plane
    for module in (
        algorithms, audits, bills, scenarios, grants, lifecycle, people, predictions, quotas,
        retention, rollouts, running, signers, users,
    ):  # fmt: skip
        app.include_router(module.router, prefix="/api/v1")
    app.include_router(running.data_router)
    app.include_router(running.metrics_router)
    app.include_router(bills.rating_router)
    for path in (PREFIX, PREFIX + "/{path:path}"):
        app.router.routes.append(Route(path, door, include_in_schema=False))
    app.include_router(jobs.router)
    pages.mount(app)
    app.get("/api/openapi.json", include_in_schema=False, dependencies=[may("api.read")])(
        app.openapi
    )
    _show_errors(app)
    app.middleware("http")(_first_look(open_paths(app)))
    return app


def _poll(plane: ControlPlane) -> float:
    return plane.truths.settings.poll_seconds


def _load(plane: ControlPlane) -> None:
    plane.truths.usage.load(plane.truths.home.journal)
    plane.keeper.run()  # in this thread, so that nothing is folded while it compares


def _apply_features(plane: ControlPlane) -> None:
    try:
        bans = [Ban(f.category, f.joined, f.reason) for f in plane.controls.forbidden()]
        plane.features.apply(bans)  # imports Feast, which takes seconds: nobody waits for it
    except ForbiddenCategory as error:
        log.error("the feature store stays as it was: %s", error)
    except Exception:
        log.exception("the feature store could not be set up")


def _repeat(work: Callable[[], None], pause: float, stop: threading.Event) -> None:
    """Do it again and again; one failure is logged and is not the end."""
    while not stop.wait(pause):
        try:
            work()
        except Exception:
            log.exception("background work failed, will repeat")


def _first_look(is_open: Callable[[str], bool]) -> Callable[[Request, Next], Awaitable[Response]]:
    """What is looked at before a body is read: who sends it, and that it is JSON if it says so."""

    async def look(request: Request, call_next: Next) -> Response:
        if request.method not in ("GET", "HEAD") and not is_open(request.url.path):
            try:
                await run_in_threadpool(key_of, request)
            except CityBrainError as error:
                note_denial(request, error)
                return _problem(error)
        return await _strict_json(request, call_next)

    return look


async def _strict_json(request: Request, call_next: Next) -> Response:
    """Refuse what Python's own JSON parser lets through: NaN, 1e999, lone surrogates."""
    if request.headers.get("content-type", "").startswith("application/json"):
        body = await request.body()
        try:
            if len(body) > MAX_JSON * (16 if request.url.path.startswith("/v1/features") else 1):
                raise TooLarge(f"The body is longer than the {MAX_JSON} bytes that are taken here.")
            if body:
                orjson.loads(body)
        except orjson.JSONDecodeError as error:
            return _problem(BadJson(f"The body is not JSON: {str(error)[:200]}."))
        except TooLarge as error:
            return _problem(error)
    response = await call_next(request)
    response.headers.setdefault("x-content-type-options", "nosniff")
    response.headers.setdefault("cache-control", "no-store")
    return response


def _problem(error: CityBrainError) -> Response:
    return Response(
        problem_body(error), status_code=status_of(error), media_type="application/problem+json"
    )


def _show_errors(app: FastAPI) -> None:
    @app.exception_handler(CityBrainError)
    async def ours(request: Request, error: CityBrainError) -> Response:
        note_denial(request, error)
        return _problem(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        # Never echo the input: it may be a secret, and it may not be valid JSON itself.
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return _problem(InvalidInput(f"{where or 'body'}: {first['msg']}."))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            return _problem(NotFound(f"{request.method} {request.url.path[:100]} is not a route."))
        return JSONResponse({"detail": error.detail}, error.status_code)

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:
        log.error("a control call failed", exc_info=error)
        return _problem(CityBrainError("The call failed inside the platform; its log says why."))


def main() -> None:
    """Run the control process of a home until it is told to end."""
    settings = Settings()
    home = settings.home
    log_to(home / "logs" / "control.log")
    plane = build(settings)
    socket = plane.truths.home.control_socket
    reserve_socket(socket)
    config = uvicorn.Config(
        create_app(plane), uds=str(socket), log_config=None, access_log=False, lifespan="on",
        server_header=False, timeout_graceful_shutdown=5,
        forwarded_allow_ips="*",  # only our gateways reach this socket
    )  # fmt: skip
    asyncio.run(uvicorn.Server(config).serve())


if __name__ == "__main__":
    main()
