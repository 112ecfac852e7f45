"""`python -m citybrain.platform.workers.samples`: real samples of a scenario, a JSON job on stdin.

A process of its own, because generating a scenario's data keeps a processor busy for seconds.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from citybrain.core.settings import QUIET_LIBRARIES, put_environment
from citybrain.evaluation.scenario import find_scenario
from citybrain.models.package import Package
from citybrain.models.task import open_task
from citybrain.platform.workers.evaluation import data_of
from citybrain.registry.admission.converting import write_samples

COUNT = 16
"""Samples, spread over the scenario's data."""


def main() -> None:
    """Read the job, write the samples of `scenario` for the package in `folder` to `out`."""
    put_environment(QUIET_LIBRARIES)
    job = json.load(sys.stdin)
    folder = Path(job["folder"])
    task = open_task(Package.open(folder).manifest, folder)
    with tempfile.TemporaryDirectory() as work:
        data = data_of(find_scenario(job["scenario"], Path(job["scenarios"])), "", Path(work))
        samples = task.samples(data)
        spread = samples[:: max(1, len(samples) // COUNT)][:COUNT]
        write_samples(Path(job["out"]), [sample.inputs for sample in spread])


if __name__ == "__main__":
    main()
