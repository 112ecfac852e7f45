"""MLflow as a library: one client on the home's SQLite file, its artifacts in a folder beside it."""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from citybrain.core.errors import VersionNotFound
from citybrain.core.settings import QUIET_LIBRARIES, put_environment
from citybrain.core.shelf import needs

ARTIFACTS = "artifacts"
"""MLflow's artifacts, beside its file."""
STALE_SECONDS = 600.0
OWN = "citybrain/"
"""How the names of the platform's experiments begin."""


def tracking_uri(folder: Path) -> str:
    """What a developer gives to `mlflow.set_tracking_uri` on the platform's machine."""
    return f"sqlite:///{folder / 'mlflow.db'}"


def open_client(folder: Path) -> Any:
    """An `MlflowClient` of this home; creates and upgrades its tables."""
    put_environment(QUIET_LIBRARIES)
    with needs():
        from mlflow import MlflowClient
    _make_tables(folder)
    client = MlflowClient(tracking_uri(folder), tracking_uri(folder))
    client.search_registered_models(max_results=1)
    client.search_experiments(max_results=1)  # makes experiment 0
    # MLflow keeps SQLite's rollback journal; WAL lets developers read while we write. And it keeps
    # the artifacts of its experiment 0 in whatever folder the process that made it stood in.
    connection = sqlite3.connect(folder / "mlflow.db")
    connection.execute("PRAGMA journal_mode=WAL")
    with connection:
        connection.execute(
            "UPDATE experiments SET artifact_location = ?1"
            " WHERE experiment_id = 0 AND artifact_location != ?1",
            [(folder / ARTIFACTS / "0").as_uri()],
        )
    connection.close()
    return client


def _make_tables(folder: Path) -> None:
    """Put MLflow's file in place whole, tables and all.

    MLflow makes them by some forty migrations; a process that is killed among them leaves a file that
    no later one can open.
    """
    target = folder / "mlflow.db"
    if target.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for left in folder.glob(".tables-*"):  # by a process that was killed
        if time.time() - left.stat().st_mtime > STALE_SECONDS:
            left.unlink(missing_ok=True)
    fresh = folder / f".tables-{secrets.token_hex(4)}.db"
    try:
        store = SqlAlchemyStore(f"sqlite:///{fresh}", (folder / ARTIFACTS / "0").as_uri())
        store.engine.dispose()
        with suppress(FileExistsError):  # another process was first, and its file may be in use
            os.link(fresh, target)
    finally:
        fresh.unlink(missing_ok=True)


def everything(search: Any) -> list[Any]:
    """All that one of the client's searches finds, page by page."""
    found: list[Any] = []
    token = None
    while True:
        page = search(max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def run_of(client: Any, run_id: str) -> Any:
    """A run, or None: a version may name one that does not exist."""
    with suppress(Exception):
        return client.get_run(run_id)
    return None


class ChangeSign:
    """Tells whether anybody wrote to MLflow's SQLite file since the last look, for next to nothing.

    `PRAGMA data_version` changes on this connection whenever another one commits.
    """

    def __init__(self, folder: Path) -> None:
        self._connection = sqlite3.connect(folder / "mlflow.db", check_same_thread=False)

    def now(self) -> int:
        """A number that differs from the one before when something was written."""
        found: int = self._connection.execute("PRAGMA data_version").fetchone()[0]
        return found


def experiment(client: Any, folder: Path, name: str) -> str:
    """The id of an algorithm's own experiment, with its artifacts under the home.

    Its name is one that developers do not get: who makes an experiment manages it.
    """
    own = f"{OWN}{name}"
    found = client.get_experiment_by_name(own)
    if found is not None:
        return str(found.experiment_id)
    location = (folder / ARTIFACTS / name).as_uri()
    return str(client.create_experiment(own, artifact_location=location))


def run_folder(client: Any, run_id: str, path: str) -> Path:
    """A folder of a run's artifacts."""
    return folder_at(client, f"runs:/{run_id}/{path}")


def registered_artifacts(client: Any, found: Any, mlflow: Path, *, remote: bool) -> Path:
    """The local folder that a model version was logged to; a remote one's must lie in the home."""
    address = client.get_model_version_download_uri(found.name, str(found.version))
    folder = folder_at(client, address)
    inside = folder.resolve().is_relative_to((mlflow / ARTIFACTS).resolve())
    if remote and not inside:
        raise VersionNotFound(f"{found.name}@{found.version} names files outside of MLflow's own.")
    return folder


def folder_at(client: Any, address: str) -> Path:
    """The local folder behind `runs:/ID/path`, `models:/name/3`, `models:/name@alias` or a path.

    VersionNotFound when MLflow does not know it or its files are gone. Asks the given client only:
    MLflow's own resolution would ask whatever server the process last heard of.
    """
    try:
        uri = _resolve(client, address)
    except VersionNotFound:
        raise
    except Exception as error:  # MLflow raises many kinds for what it does not have
        reason = (str(error).splitlines() or [""])[0][:150]
        raise VersionNotFound(f"MLflow has nothing at {address[:120]}: {reason}") from error
    parsed = urlparse(uri)
    if parsed.scheme not in ("", "file"):
        raise VersionNotFound(
            f"{address[:120]} lies at {parsed.scheme}://, which this platform does not read yet."
        )
    folder = Path(unquote(parsed.path))
    if not folder.is_dir():
        raise VersionNotFound(f"The artifacts at {address[:120]} are gone.")
    return folder


def _resolve(client: Any, address: str) -> str:
    scheme, _, rest = address.partition(":/")
    if scheme == "runs":
        run_id, _, path = rest.partition("/")
        if any(part in ("..", ".") for part in path.split("/")):
            raise VersionNotFound(f"{address[:120]} is not a path inside a run.")
        run = client.get_run(run_id)
        uri = f"{run.info.artifact_uri}/{path}" if path else str(run.info.artifact_uri)
        if Path(unquote(urlparse(uri).path)).is_dir():
            return uri
        # Since MLflow 3 `log_model` writes beside the run, under the name that it was given.
        for model in client.search_logged_models([run.info.experiment_id]):
            if model.source_run_id == run_id and model.name == path:
                return str(model.artifact_location)
        return uri
    if scheme != "models":
        return address
    if "/" in rest:
        name, _, version = rest.partition("/")
        return _resolve(client, client.get_model_version_download_uri(name, version))
    if "@" in rest:
        name, _, alias = rest.partition("@")
        version = client.get_model_version_by_alias(name, alias).version
        return _resolve(client, client.get_model_version_download_uri(name, version))
    return str(client.get_logged_model(rest).artifact_location)
