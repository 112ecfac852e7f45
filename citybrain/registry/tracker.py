"""MLflow as a library: one client on the home's SQLite file, its artifacts in a folder beside it."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from citybrain.core.errors import VersionNotFound
from citybrain.core.settings import QUIET_LIBRARIES, put_environment
from citybrain.core.shelf import needs


def tracking_uri(folder: Path) -> str:
    """What a developer gives to `mlflow.set_tracking_uri` on the platform's machine."""
    return f"sqlite:///{folder / 'mlflow.db'}"


def open_client(folder: Path) -> Any:
    """An `MlflowClient` of this home; creates and upgrades its tables."""
    put_environment(QUIET_LIBRARIES)
    with needs():
        from mlflow import MlflowClient
    client = MlflowClient(tracking_uri(folder), tracking_uri(folder))
    client.search_registered_models(max_results=1)
    # MLflow keeps SQLite's rollback journal; WAL lets developers read while we write.
    connection = sqlite3.connect(folder / "mlflow.db")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    return client


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
    """The id of an algorithm's experiment, with its artifacts under the home."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = (folder / "artifacts" / name).as_uri()
    return str(client.create_experiment(name, artifact_location=location))


def artifact_folder(client: Any, name: str, version: int) -> Path:
    """The local folder that a model version was logged to."""
    uri = client.get_model_version_download_uri(name, str(version))
    if uri.startswith("models:/"):
        uri = client.get_logged_model(uri.removeprefix("models:/")).artifact_location
    if uri.startswith("runs:/"):
        run_id, _, path = uri.removeprefix("runs:/").partition("/")
        uri = f"{client.get_run(run_id).info.artifact_uri}/{path}"
    parsed = urlparse(uri)
    if parsed.scheme not in ("", "file"):
        raise VersionNotFound(
            f"{name}@{version} lies at {parsed.scheme}://, which this platform does not read yet."
        )
    folder = Path(unquote(parsed.path))
    if not folder.is_dir():
        raise VersionNotFound(f"The artifacts of {name}@{version} are gone.")
    return folder
