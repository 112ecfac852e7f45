"""Commands that touch the home themselves: up, down, status, doctor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
import psutil
import typer

from citybrain.core.errors import CityBrainError
from citybrain.core.home import Home
from citybrain.core.settings import Settings, child_environment
from citybrain.platform.cli.output import (
    JsonFlag,
    client,
    home_of,
    screen,
    show_json,
    show_table,
    verify_of,
)
from citybrain.platform.reload import changes, shown, told
from citybrain.platform.safety import refuse_unsafe
from citybrain.platform.state import read_state, supervisor_alive
from citybrain.platform.tracking.server import PREFIX

READY_SECONDS = 120.0
STOP_SECONDS = 50.0
"""Seconds for the supervisor to end all, besides those for the calls under way."""
HomeOption = Annotated[Path | None, typer.Option(help="Home folder; CITYBRAIN_HOME.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (up, down, status, doctor):
        app.command()(command)


def up(
    home: HomeOption = None,
    port: Annotated[int | None, typer.Option(help="HTTP port; 8080.")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="gRPC port; 8081.")] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to bind; loopback. Others need TLS or a proxy.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate of both doors (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key (PEM, mode 0600).")] = None,
    profile: Annotated[
        Literal["embedded", "production"] | None, typer.Option(help="embedded or production.")
    ] = None,
    *,
    mlflow: Annotated[
        bool, typer.Option(help="Serve MLflow to developers on other machines, at /mlflow.")
    ] = False,
    detach: Annotated[bool, typer.Option(help="Return when it is ready.")] = False,
    json: JsonFlag = False,
) -> None:
    """Start the platform of a home, or what is missing of it.

    One that runs keeps its settings; `citybrain reload` has it take over others.

    Example: `citybrain up --detach --port 9000`
    """
    given = {
        "home": str(home.expanduser().resolve()) if home else None, "port": port,
        "grpc_port": grpc_port, "host": host, "profile": profile, "mlflow": mlflow or None,
        "tls_cert": str(tls_cert.expanduser().resolve()) if tls_cert else None,
        "tls_key": str(tls_key.expanduser().resolve()) if tls_key else None,
    }  # fmt: skip
    extra = {f"CITYBRAIN_{name.upper()}": str(v) for name, v in given.items() if v is not None}
    settings = Settings(**{name: v for name, v in given.items() if v is not None})  # type: ignore[arg-type]
    place = home_of(settings).make()
    start_platform(place, settings, extra, detach=detach)
    if detach:
        state = read_state(place)
        if json:
            show_json(state)
        else:
            _name_differences(state, settings)
            screen.print(f"citybrain is ready at [bold]{state['url']}[/] (gRPC {state['grpc']}).")
            if place.mlflow_wanted.exists():
                screen.print(f"MLflow for other machines: {state['url']}{PREFIX}")
            screen.print(f"Admin key: {place.admin_key}", soft_wrap=True)


def start_platform(home: Home, settings: Settings, extra: dict[str, str], *, detach: bool) -> None:
    """Start a supervisor unless one lives, and wait until the platform is ready."""
    running = supervisor_alive(home)
    if not running:
        refuse_unsafe(settings, home)
        _check_ports(settings)
        (home.run / "refused.txt").unlink(missing_ok=True)
        environment = child_environment({"CITYBRAIN_HOME": str(home.root)} | extra)
        command = [sys.executable, "-P", "-m", "citybrain.platform.supervisor"]
        if not detach:
            screen.print(f"Starting citybrain in {home.root}. Stop it with Ctrl-C.", soft_wrap=True)
            os.execve(sys.executable, command, environment)  # noqa: S606
        os.umask(0o077)
        with (home.logs / "supervisor.out").open("wb") as output:
            subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True, cwd=home.root,
            )  # fmt: skip
    elif settings.mlflow:
        home.mlflow_wanted.touch()  # the supervisor looks for it
    wait_until_ready(home, mlflow=settings.mlflow)


def _name_differences(state: dict[str, Any], settings: Settings) -> None:
    """What this shell says and the platform that runs already does not do."""
    said = told(settings, all_of_them=False)
    said.pop("CITYBRAIN_MLFLOW", None)  # `up` sees to that
    if found := changes(state.get("settings", {}), shown(said)):
        screen.print("It runs with other settings than this shell says:")
        for change in found:
            screen.print(f"  {change}", markup=False, soft_wrap=True)
        screen.print("Take them over with: citybrain reload")


def wait_until_ready(home: Home, seconds: float = READY_SECONDS, *, mlflow: bool = False) -> None:
    """Return when gateway, control process, Ray and every wanted deployment are up."""
    deadline = time.monotonic() + seconds
    with screen.status("starting …"):
        while time.monotonic() < deadline:
            refused = home.run / "refused.txt"
            if refused.exists():
                raise CityBrainError(
                    f"The platform refused to serve: {refused.read_text()}",
                    hint="What is wrong here: citybrain doctor",
                )
            state = read_state(home)
            if state and _is_ready(home, state, mlflow=mlflow):
                return
            time.sleep(0.3)
    raise CityBrainError(
        f"The platform is not ready after {seconds:g} seconds.\n{_last_lines(home)}",
        hint=f"Look into {home.logs}, or run: citybrain doctor",
    )


def _is_ready(home: Home, state: dict[str, Any], *, mlflow: bool) -> bool:
    try:
        headers = {"authorization": f"Bearer {home.admin_key.read_text().strip()}"}
        with httpx.Client(
            base_url=state["url"], headers=headers, timeout=5, trust_env=False,
            verify=verify_of(state) or True,
        ) as here:  # fmt: skip
            answer = here.get("/api/v1/status")
            return (
                answer.is_success
                and bool(answer.json()["ready"])
                and here.get("/v2/health/ready").is_success
                and (not mlflow or here.get(f"{PREFIX}/health").is_success)
            )
    except (httpx.HTTPError, OSError, ValueError, KeyError):
        return False


def _last_lines(home: Home) -> str:
    from citybrain.platform.logs import tail

    lines: list[str] = []
    for name in (
        "supervisor.out",
        "supervisor.log",
        "control.out",
        "gateway-1.out",
        "ray.out",
        "mlflow.out",
    ):
        found = tail(home.logs / name, 5)
        lines += [f"{name}: {line}" for line in found if line.strip()]
    return "\n".join(lines)


def _check_ports(settings: Settings) -> None:
    import socket

    for port in (settings.port, settings.grpc_port):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.host, port))
            except OSError as error:
                raise CityBrainError(
                    f"Port {port} of {settings.host} cannot be bound: {error.strerror}.",
                    hint="Choose others: citybrain up --port 9080 --grpc-port 9081",
                ) from error


def down(home: HomeOption = None) -> None:
    """Stop the platform of a home; what it started, and nothing else.

    Example: `citybrain down`
    """
    place = home_of(Settings() if home is None else Settings(home=home))
    if stop_platform(place):
        screen.print("Stopped.")
    else:
        screen.print(f"No platform runs in {place.root}.", soft_wrap=True)


def stop_platform(home: Home) -> bool:
    """End the supervisor and everything that carries its mark; whether there was anything."""
    from citybrain.platform.children import end_marked

    state = read_state(home)
    if not state:
        return False
    if supervisor_alive(home):
        process = psutil.Process(state["supervisor"])
        process.send_signal(signal.SIGTERM)
        drain = float(state.get("settings", {}).get("CITYBRAIN_SERVING__DRAIN", 0))
        with screen.status("answering what is under way, and stopping …"):
            try:
                process.wait(drain + STOP_SECONDS)
            except psutil.TimeoutExpired:
                process.kill()
    end_marked(state["mark"])
    (home.run / "platform.json").unlink(missing_ok=True)
    return True


def status(*, json: JsonFlag = False) -> None:
    """What runs, where, and where plain MLflow users point their tracking address.

    Example: `citybrain status --json`
    """
    with client() as city:
        found = city.status()
    if json:
        show_json(found)
        return
    word = "ready" if found.ready else "starting"
    screen.print(f"citybrain {found.version} is [bold]{word}[/] at {found.url}, gRPC {found.grpc}")
    screen.print(f"home    {found.home}", soft_wrap=True)
    screen.print(f"mlflow  {found.mlflow}", soft_wrap=True)
    if found.mlflow_server:
        screen.print(f"mlflow  {found.mlflow_server} (other machines, with a developer's key)")
    screen.print(f"ray     {found.ray}")
    rows = [
        [
            d.algorithm,
            d.target,
            d.version or "",
            d.running.get("form", ""),
            f"{d.wanted_replicas} × {d.resources}" if d.resources else d.wanted_replicas,
            "" if d.running_replicas is None else d.running_replicas,
            "running (asleep: the next call wakes it)" if d.asleep else d.state,
            d.message[:200],
        ]
        for d in found.deployments
    ]
    show_table(
        "Deployments",
        ["algorithm", "target", "version", "form", "replicas", "now", "state", "message"],
        rows,
        empty="Nothing is deployed. See what there is: citybrain algorithms",
    )  # fmt: skip


def doctor(home: HomeOption = None, *, json: JsonFlag = False) -> None:
    """Check this machine and a home: Python, libraries, disk, files, doors, what runs and how.

    Example: `citybrain doctor`
    """
    from citybrain.platform.doctor import examine

    settings = Settings() if home is None else Settings(home=home)
    findings = examine(settings, home_of(settings))
    if json:
        show_json([finding.__dict__ for finding in findings])
    else:
        show_table(
            "Doctor", ["", "check", "found", "next step"],
            [[f.mark, f.check, f.found, f.hint] for f in findings],
        )  # fmt: skip
    if any(finding.mark == "✗" for finding in findings):
        raise typer.Exit(1)
