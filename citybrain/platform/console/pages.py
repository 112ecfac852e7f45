"""The console's pages on the control process's application."""

from __future__ import annotations

from fastapi import FastAPI

from citybrain.platform.console import (
    access,
    algorithms,
    bills,
    calls,
    departments,
    inbox,
    limits,
    overview,
    scenarios,
    sign_in,
    users,
)
from citybrain.platform.console.door import STATIC, Assets


def mount(app: FastAPI) -> None:
    """Add the pages, and the files that they load."""
    for module in (
        sign_in, overview, algorithms, access, calls, limits, bills, scenarios, departments, users,
        inbox,
    ):  # fmt: skip
        app.include_router(module.router)
    app.mount("/static", Assets(directory=STATIC), name="static")
