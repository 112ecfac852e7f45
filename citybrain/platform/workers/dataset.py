"""`python -m citybrain.platform.workers.dataset`: the data of a scenario, a JSON job on stdin.

Prints a JSON object with their path. A process of its own, because generating them keeps a processor
busy for seconds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from citybrain.core.errors import CityBrainError
from citybrain.core.settings import QUIET_LIBRARIES, put_environment
from citybrain.evaluation.scenario import find_scenario
from citybrain.platform.workers.evaluation import data_of


def main() -> None:
    """Read the job, find or generate the data of `scenario` in `out`, say where they lie."""
    put_environment(QUIET_LIBRARIES)
    job = json.load(sys.stdin)
    try:
        scenario = find_scenario(job["scenario"], Path(job["scenarios"]))
        found = {"path": str(data_of(scenario, "", Path(job["out"])))}
    except CityBrainError as error:
        found = {"problem": str(error)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
