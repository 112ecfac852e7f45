"""How `citybrain demo` shows itself: bars while it runs, a table at the end."""

from __future__ import annotations

import time
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from citybrain.core.home import Home
from citybrain.core.settings import Settings
from citybrain.platform.cli.local import start_platform, stop_platform
from citybrain.platform.cli.output import errors, home_of, screen, show_json, show_table, verify_of
from citybrain.platform.demo import STARTERS, Demo, Life
from citybrain.platform.state import read_state, supervisor_alive


def run_demo(settings: Settings, *, stop_after: bool, as_json: bool) -> int:
    """Start a platform if none runs, live five lives, show them; 1 when one of them failed."""
    home = home_of(settings).make()
    started = not supervisor_alive(home)
    begin = time.monotonic()
    if started:
        screen.print(f"Starting citybrain in {home.root} …", soft_wrap=True)
    start_platform(home, settings, {}, detach=True)
    state = read_state(home)
    url = state["url"]
    bar = Progress(
        TextColumn("{task.fields[name]:<17}"), BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f}%"), TextColumn("{task.description}"),
        TimeElapsedColumn(), console=errors,
    )  # fmt: skip
    tasks = {s.name: bar.add_task("waiting", total=1.0, name=s.name) for s in STARTERS}
    said: dict[str, str] = {}

    def watch(name: str, share: float, text: str) -> None:
        bar.update(tasks[name], completed=share, description=text[:60])
        step = text.split(" ", maxsplit=1)[0]
        if not errors.is_terminal and said.get(name) != step:  # a log file gets lines, no bars
            said[name] = step
            errors.print(f"{name}: {text}", soft_wrap=True)

    if errors.is_terminal:
        bar.start()
    try:
        lives = Demo(home, url, watch, verify_of(state)).run()
    finally:
        bar.stop()
    _show(lives, as_json=as_json)
    failed = [life for life in lives if life.error]
    if not as_json:
        for life in failed:
            screen.print(f"[red]✗ {life.starter.name}[/]: {life.error}", soft_wrap=True)
        seconds = time.monotonic() - begin
        screen.print(f"{len(lives) - len(failed)} of {len(lives)} lived, {seconds:.0f} s.")
    if stop_after and started:
        stop_platform(home)
    elif not as_json:
        _invite(home, url)
    return 1 if failed else 0


def _show(lives: list[Life], *, as_json: bool) -> None:
    if as_json:
        show_json([life.__dict__ | {"starter": life.starter.name} for life in lives])
        return
    show_table(
        "What happened",
        ["algorithm", "version", "figure against baseline", "gate", "approved by", "caller",
         "calls", "counted", "p50 ms"],
        [
            [life.starter.name, life.version, life.figure, life.gate, life.approved_by,
             life.starter.user, life.calls, life.counted, f"{life.p50_ms:.1f}"]
            for life in lives
        ],
    )  # fmt: skip


def _invite(home: Home, url: str) -> None:
    screen.print(f"Console: [bold]{url}[/]  (sign in with the key in {home.admin_key})",
                 soft_wrap=True)  # fmt: skip
    screen.print("Stop it with: citybrain down" + _home_hint(home))


def _home_hint(home: Home) -> str:
    default = Path("~/.citybrain").expanduser().resolve()
    return "" if home.root == default else f" --home {home.root}"
