"""The command that has a running platform take over other settings."""

from __future__ import annotations

import time
from typing import Any

import typer

from citybrain.core.errors import CityBrainError, PlatformDown
from citybrain.core.home import Home
from citybrain.core.settings import Settings
from citybrain.platform.cli.local import HomeOption, wait_until_ready
from citybrain.platform.cli.output import JsonFlag, home_of, screen, show_json
from citybrain.platform.reload import ask_reload, told
from citybrain.platform.state import read_state, supervisor_alive

NOTICE_SECONDS = 10.0


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(reload)


def reload(home: HomeOption = None, *, json: JsonFlag = False) -> None:
    """Start gateways and control process anew, one after another, with the settings of this shell.

    No call is lost. What this shell does not say stays as it is. Ray and its replicas go on; a
    setting that they, or a door's address, would have to be started anew for is refused, or named.

    Example: `CITYBRAIN_SERVING__GATEWAYS=2 citybrain reload`
    """
    settings = Settings() if home is None else Settings(home=home)
    place = home_of(settings)
    if not supervisor_alive(place):
        raise PlatformDown(f"No platform runs in {place.root}.", hint="Start it: citybrain up")
    answer = _answered(place, ask_reload(place, told(settings, all_of_them=False)))
    if answer["state"] == "failed":
        raise CityBrainError(answer["message"])
    wait_until_ready(place)
    if json:
        show_json(answer)
        return
    for change in answer["changes"]:
        screen.print(f"Taken over: {change}", markup=False, soft_wrap=True)
    if answer["later"]:
        screen.print(
            f"Replicas that run keep what they were told; {', '.join(answer['later'])} counts for "
            "those of deployments that start from now on, and for all after citybrain down and up.",
            soft_wrap=True,
        )
    screen.print("Gateways and control process were started anew.")


def _answered(home: Home, asked: str) -> dict[str, Any]:
    """What became of it; however long it takes, while the supervisor lives and is at it."""
    seen = time.monotonic()
    with screen.status("reloading …") as status:
        while supervisor_alive(home):
            answer: dict[str, Any] = read_state(home).get("reload") or {}
            if answer.get("id") == asked:
                if answer["state"] != "running":
                    return answer
                status.update(f"{answer['doing'] or 'reloading'} …")
            elif answer.get("state") != "running" and time.monotonic() - seen > NOTICE_SECONDS:
                break
            time.sleep(0.2)
    raise CityBrainError(
        "The supervisor does not take the settings over.",
        hint=f"Look into {home.logs}/supervisor.log.",
    )
