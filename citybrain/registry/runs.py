"""The MLflow run behind a version: its package as artifacts, its parameters, what admission saw."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from citybrain.core.errors import VersionNotFound
from citybrain.core.schemas import Form
from citybrain.models.package import Manifest
from citybrain.registry.tracker import experiment, run_folder

DIGEST, RUN, FORM = "citybrain.digest", "citybrain.run", "citybrain.form."
PACKAGE, FORMS, REPORT = "package", "forms", "admission.json"


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


def read_report(client: Any, run_id: str) -> dict[str, Any]:
    """What admission saw, from its run; empty for versions from before there was admission."""
    return read_json(client, run_id, REPORT)


def read_json(client: Any, run_id: str, path: str) -> dict[str, Any]:
    """A JSON object among the artifacts of a run; empty where there is none."""
    try:
        return dict(json.loads((run_folder(client, run_id, "") / path).read_bytes()))
    except (OSError, ValueError, VersionNotFound):
        return {}


def forms_in(tags: Mapping[str, str]) -> list[Form]:
    """The forms that an MLflow version's tags tell of, fastest first; the first may be served."""
    found: list[Form] = []
    for tag, text in tags.items():
        if tag.startswith(FORM):
            with contextlib.suppress(LookupError, TypeError, ValueError):  # a stranger's is none
                told = json.loads(text)
                faster = told["milliseconds"] < told["source_milliseconds"]
                served = faster and told.get("serving") == "auto"
                found.append(
                    Form.model_validate({**told, "kind": tag.removeprefix(FORM), "served": served})
                )
    found.sort(key=lambda form: form.milliseconds)
    return [
        form.model_copy(update={"served": form.served and not index})
        for index, form in enumerate(found)
    ]
