"""The MLflow run behind a version: its package as artifacts, its parameters, what admission saw."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from citybrain.core.errors import VersionNotFound
from citybrain.models.package import Manifest
from citybrain.registry.tracker import experiment, run_folder

DIGEST, RUN = "citybrain.digest", "citybrain.run"
PACKAGE, REPORT = "package", "admission.json"


def log_package(
    client: Any, mlflow_folder: Path, folder: Path, manifest: Manifest, digest: str, *,
    metrics: Mapping[str, float], report: Mapping[str, Any],
) -> str:  # fmt: skip
    """Make a finished run that holds an admitted package; its id."""
    number = experiment(client, mlflow_folder, manifest.name)
    run_id = str(client.create_run(number, tags={DIGEST: digest}).info.run_id)
    try:
        for name, value in manifest.lineage.model_dump(exclude_none=True).items():
            if value != "":
                client.log_param(run_id, f"lineage.{name}", value)
        for name in ("task", "runtime", "domain", "owner", "licence"):
            client.set_tag(run_id, f"citybrain.{name}", getattr(manifest, name))
        for name, number_value in metrics.items():
            client.log_metric(run_id, name, float(number_value))
        client.log_artifacts(run_id, str(folder), PACKAGE)
        client.log_dict(run_id, dict(report), REPORT)
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id)
    return run_id


def run_of(model_version: Any) -> str:
    """The run with the package: admission's own for versions that plain MLflow registered."""
    return str(model_version.tags.get(RUN) or model_version.run_id or "")


def read_report(client: Any, model_version: Any) -> dict[str, Any]:
    """What admission saw of a version; empty for versions from before there was admission."""
    try:
        folder = run_folder(client, run_of(model_version), "")
        return dict(json.loads((folder / REPORT).read_bytes()))
    except (OSError, ValueError, VersionNotFound):
        return {}
