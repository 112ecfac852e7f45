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
from starlette.exceptions import HTTPException

from citybrain import __version__
from citybrain.core.errors import BadJson, CityBrainError, InvalidInput, NotFound, TooLarge
from citybrain.core.settings import Settings
from citybrain.platform.api import algorithms, lifecycle, people, running, signers
from citybrain.platform.console import pages
from citybrain.platform.logs import log_to
from citybrain.platform.wiring import ControlPlane, build
from citybrain.serving.problems import problem_body, status_of

log = logging.getLogger(__name__)
MAX_JSON = 1 << 20


def create_app(plane: ControlPlane) -> FastAPI:
    """The control API and the console over a control plane."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        stop = threading.Event()
        plane.reconciler.start()
        plane.evaluation.start()
        threading.Thread(target=_apply_features, args=(plane,), daemon=True).start()
        for work, pause in ((lambda: _load(plane), 0.5), (plane.projection.run, _poll(plane))):
            threading.Thread(target=_repeat, args=(work, pause, stop), daemon=True).start()
        yield
        stop.set()
        plane.reconciler.close()
        plane.evaluation.close()

    app = FastAPI(
        title="citybrain",
        version=__version__,
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.plane = plane
    for module in (algorithms, lifecycle, people, running, signers):
        app.include_router(module.router, prefix="/api/v1")
    app.include_router(running.data_router)
    pages.mount(app)
    _show_errors(app)
    app.middleware("http")(_strict_json)
    return app


def _poll(plane: ControlPlane) -> float:
    return plane.truths.settings.poll_seconds


def _load(plane: ControlPlane) -> None:
    plane.truths.usage.load(plane.truths.home.journal)


def _apply_features(plane: ControlPlane) -> None:
    try:
        plane.features.apply()  # imports Feast, which takes seconds: nobody waits for it
    except Exception:
        log.exception("the feature store could not be set up")


def _repeat(work: Callable[[], None], pause: float, stop: threading.Event) -> None:
    """Do it again and again; one failure is logged and is not the end."""
    while not stop.wait(pause):
        try:
            work()
        except Exception:
            log.exception("background work failed, will repeat")


async def _strict_json(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
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
    async def ours(_: Request, error: CityBrainError) -> Response:
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
    socket.unlink(missing_ok=True)
    config = uvicorn.Config(
        create_app(plane), uds=str(socket), log_config=None, access_log=False, lifespan="on",
        server_header=False, timeout_graceful_shutdown=5,
        forwarded_allow_ips="*",  # only our gateways reach this socket
    )  # fmt: skip
    asyncio.run(uvicorn.Server(config).serve())


if __name__ == "__main__":
    main()
