"""What a platform must be to serve (`docs/safety.md`).

Doors that give nothing away, files that are its owner's alone, and Ray, MLflow and Feast with the settings
that close them. `up` looks before it starts anything, the supervisor at what runs, and `doctor` at both.
"""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import psutil

from citybrain.core.addresses import read_networks
from citybrain.core.errors import CityBrainError, InvalidInput
from citybrain.core.home import Home, is_private
from citybrain.core.settings import Settings, is_in_environment
from citybrain.platform.children import MARK
from citybrain.platform.listeners import WORKER, foreign_listeners

SHOWN = 3
OPEN_VARIABLES = {
    "INTRA_COMMUNICATION_BASE64": "Feast would believe claims that nobody signed",
    "MLFLOW_ALLOW_FILE_STORE": "MLflow would take a folder for its store",
    "_MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "MLflow would call addresses inside the network",
    "BENTOML_NO_UDS": "services of a bundle would listen on TCP, where they take pickles",
}
"""Variables of a shell that would open what we close, and how."""
RAY = {
    "RAY_AUTH_MODE": "token", "RAY_USE_TLS": "1", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_SERVE_ENABLE_HA_PROXY": "0", "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}  # fmt: skip
RAY_HEAD = ("--node-ip-address=127.0.0.1", "--include-dashboard=false")
MLFLOW = {
    "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ENABLE_AI_GATEWAY": "false", "MLFLOW_ENABLE_REMOTE_ASSISTANT": "false",
    "MLFLOW_SERVER_ENABLE_GRAPHQL_AUTH": "true", "MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS": "false",
    "MLFLOW_ALLOW_HTTP_REDIRECTS": "false", "MLFLOW_SERVER_ALLOWED_HOSTS": "mlflow",
}  # fmt: skip
EVERYWHERE = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
FEAST_SERVERS = ("serve", "serve_registry", "serve_offline", "serve_lineage", "ui")


class Fault(NamedTuple):
    """Why it may not serve."""

    check: str
    why: str
    hint: str


def refuse_unsafe(settings: Settings, home: Home) -> None:
    """InvalidInput with the first reason why a platform may not serve like this."""
    for fault in faults(settings, home):
        raise InvalidInput(fault.why, hint=fault.hint)


def faults(settings: Settings, home: Home) -> list[Fault]:
    """What can be known before anything runs."""
    return [*door_faults(settings), *file_faults(home), *shell_faults()]


def door_faults(settings: Settings) -> Iterator[Fault]:
    """Keys travel over the doors: beyond loopback only in TLS, ours or a named proxy's."""
    if bool(settings.tls_cert) != bool(settings.tls_key):
        yield Fault(
            "doors", "TLS takes a certificate and its key, and only one of them is given.",
            "--tls-cert FILE --tls-key FILE",
        )  # fmt: skip
    elif settings.tls:
        yield from _certificate_faults(Path(settings.tls_cert), Path(settings.tls_key))
    try:
        known = read_networks([one for one in settings.proxies.split(",") if one.strip()])
    except CityBrainError as error:
        yield Fault("doors", f"CITYBRAIN_PROXIES: {error.message}", error.hint)
        return
    if any(network.prefixlen == 0 for network in known):
        yield Fault(
            "doors", "CITYBRAIN_PROXIES names every address, and so everybody would be believed.",
            "Name the proxies: CITYBRAIN_PROXIES=10.0.0.5",
        )  # fmt: skip
    if settings.beyond and not settings.tls and not known:
        yield Fault(
            "doors",
            f"{settings.host} can be reached from other machines, and keys and data would travel in "
            "the clear.",
            "Give a certificate (--tls-cert FILE --tls-key FILE), name the proxies that speak TLS for "
            "it (CITYBRAIN_PROXIES=10.0.0.5), or leave --host out.",
        )


def _certificate_faults(certificate: Path, key: Path) -> Iterator[Fault]:
    for path in (certificate, key):
        if not (path.is_absolute() and path.is_file()):
            yield Fault(
                "doors", f"There is no file {path} for TLS.", "Give absolute paths of PEM files."
            )
            return
    if stat.S_IMODE(key.stat().st_mode) & 0o077:
        yield Fault("doors", f"The key {key} is open to others.", f"chmod 600 {key}")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
        ends = _end_of(certificate)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        yield Fault(
            "doors", f"{certificate} and {key} are no certificate and its key: {error}.",
            "Both are PEM files; the server's own certificate comes first.",
        )  # fmt: skip
        return
    if ends < datetime.now(UTC):
        yield Fault(
            "doors", f"The certificate {certificate} ended on {ends:%Y-%m-%d}.", "Renew it."
        )


def _end_of(certificate: Path) -> datetime:
    from cryptography import x509

    return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc


def file_faults(home: Home) -> Iterator[Fault]:
    """The home, and what lies outside it because of long names, are this user's alone."""
    for folder in dict.fromkeys((home.root, home.short)):
        if folder.exists() and not is_private(folder):
            yield Fault(
                "files", f"{folder} is open to others, or another user's.", f"chmod 700 {folder}"
            )
    secrets = [home.admin_key, home.auditor_key, *home.pepper.parent.glob("*")]
    if found := [path for path in secrets if path.is_file() and _mode(path) & 0o077]:
        yield Fault(
            "files", f"{_named(found)} can be read by others.", f"chmod 600 {_paths(found)}"
        )
    if found := list(_foreign(home)):
        yield Fault(
            "files", f"{_named(found)} can be changed by others.", f"chmod -R go-w {home.root}"
        )


def readable(home: Home) -> list[Path]:
    """Files that only the home's own folder keeps others from reading."""
    return [path for path in _walk(home) if _mode(path) & 0o044]


def _foreign(home: Home) -> Iterator[Path]:
    for path in _walk(home):
        if _mode(path) & 0o022 or path.lstat().st_uid != os.getuid():
            yield path


def _walk(home: Home) -> Iterator[Path]:
    """Files and folders of a home, less those that Ray makes: it opens them, inside a closed folder."""
    for place, folders, files in os.walk(home.root):
        folders[:] = [name for name in folders if Path(place, name) != home.ray]
        for name in (*folders, *files):
            path = Path(place, name)
            try:
                kind = path.lstat().st_mode
            except FileNotFoundError:  # it is a platform that runs
                continue
            if stat.S_ISREG(kind) or stat.S_ISDIR(kind):
                yield path


def _mode(path: Path) -> int:
    try:
        return stat.S_IMODE(path.lstat().st_mode)
    except FileNotFoundError:
        return 0


def _named(paths: list[Path]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(path.name for path in paths[:SHOWN]) + more


def _paths(paths: list[Path]) -> str:
    return " ".join(str(path) for path in paths[:SHOWN])


def shell_faults() -> Iterator[Fault]:
    """Variables of the shell that our processes would inherit."""
    for name, why in OPEN_VARIABLES.items():
        if is_in_environment(name):
            yield Fault("environment", f"{name} is set: {why}.", f"unset {name}")


def running_faults(
    processes: Iterable[psutil.Process], doors: set[tuple[str, int]]
) -> Iterator[Fault]:
    """What is wrong with processes of ours that run."""
    every = list(processes)
    for said in foreign_listeners(every, doors):
        yield Fault("listeners", said, "Look into logs/supervisor.log of the home.")
    for process in every:
        try:
            command, environment = process.cmdline(), process.environ()
        except psutil.Error:  # it ended meanwhile
            continue
        if MARK not in environment:  # the same
            continue
        for said in _settings_of(command, environment):
            who = f"{' '.join(command)[:60]} (process {process.pid})"
            yield Fault("settings", f"{who}: {said}.", "citybrain down, then citybrain up")


def _is_ray(command: list[str]) -> bool:
    """Whether Ray started it; paths of a home or of Python may well have `ray` in them."""
    return any(one.startswith((WORKER, "ray.")) or "-packages/ray/" in one for one in command)


def _settings_of(command: list[str], environment: dict[str, str]) -> Iterator[str]:
    wanted = dict(EVERYWHERE)
    if _is_ray(command):
        wanted |= RAY
    if any(one.startswith("mlflow.server") for one in command):
        wanted |= MLFLOW
        if "--uds" not in command:
            yield "MLflow does not listen on a Unix socket alone"
    if "ray.scripts.scripts" in command and "start" in command:
        for flag in RAY_HEAD:
            if flag not in command:
                yield f"Ray's head was started without {flag}"
    if any(Path(one).name == "feast" for one in command[:3]) and set(FEAST_SERVERS) & set(command):
        yield "a server of Feast runs, which the platform never starts"
    for name, value in wanted.items():
        if environment.get(name) != value:
            yield f"{name} is {environment.get(name, 'not set')!r} and must be {value!r}"
    for name, why in OPEN_VARIABLES.items():
        if name in environment:
            yield f"{name} is set: {why}"
