"""A client of a running platform."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from citybrain.core.schemas import (
    Algorithm,
    AlgorithmPage,
    Conversion,
    Deployment,
    Evaluation,
    NewConversion,
    NewDeployment,
    NewEvaluation,
    PlatformStatus,
    Scaling,
    ScenarioInfo,
    Version,
)
from citybrain.core.schemas.conversions import FormKind
from citybrain.sdk.departments import DepartmentCalls
from citybrain.sdk.grants import GrantCalls
from citybrain.sdk.jobs import JobCalls
from citybrain.sdk.lifecycle import LifecycleCalls
from citybrain.sdk.predictions import PredictionCalls
from citybrain.sdk.rollouts import RolloutCalls
from citybrain.sdk.upload import form_of
from citybrain.sdk.users import UserCalls

Watch = Callable[[float, str], None]
ADMISSION_SECONDS = 700.0


def _unwatched(_: float, __: str) -> None:
    return


class CityBrain(
    LifecycleCalls, RolloutCalls, PredictionCalls, DepartmentCalls, UserCalls, GrantCalls, JobCalls
):
    """Every route of the platform as a method; use it as a context manager or `close` it.

    >>> with CityBrain("http://127.0.0.1:8080", key) as city:      # doctest: +SKIP
    ...     city.predict("hotline-router", [{"text": "路灯坏了"}])
    """

    # What departments call

    def predict(self, name: str, inputs: list[Any], *, purpose: str = "") -> dict[str, Any]:
        """Answer items of the algorithm's task; `results` has one entry an item."""
        headers = {"x-purpose": purpose} if purpose else {}
        path = f"/v1/algorithms/{name}/predict"
        found: dict[str, Any] = self.call("POST", path, json={"inputs": inputs}, headers=headers)
        return found

    def predict_in_parts(
        self, name: str, inputs: list[Any], *, purpose: str = ""
    ) -> Iterator[dict[str, Any]]:
        """Each part of the answer when it is ready (`part`, `row`, `results`), the whole at the end."""
        headers = {"x-purpose": purpose} if purpose else {}
        path = f"/v1/algorithms/{name}/predict"
        yield from self._events("POST", path, json={"inputs": inputs}, headers=headers)

    def predict_files(self, name: str, files: list[Path], *, purpose: str = "") -> dict[str, Any]:
        """The same for images or sounds in files."""
        headers = {"x-purpose": purpose} if purpose else {}
        parts = [("file", (path.name, path.read_bytes())) for path in files]
        path = f"/v1/algorithms/{name}/predict"
        found: dict[str, Any] = self.call("POST", path, files=parts, headers=headers)
        return found

    def request(self, request_id: str) -> dict[str, Any]:
        """The ledger's row of one of this department's calls."""
        found: dict[str, Any] = self.call("GET", f"/v1/requests/{request_id}")
        return found

    # Catalogue and lifecycle

    def status(self) -> PlatformStatus:
        """What runs, where, since when."""
        return self._one(PlatformStatus, "GET", "/api/v1/status")

    def me(self) -> dict[str, str]:
        """Key, department and role of this client."""
        found: dict[str, str] = self.call("GET", "/api/v1/me")
        return found

    def algorithms(self) -> list[Algorithm]:
        """The catalogue."""
        return self._many(Algorithm, "/api/v1/algorithms")

    def algorithm(self, name: str) -> AlgorithmPage:
        """One algorithm with its versions, tensors and an example."""
        return self._one(AlgorithmPage, "GET", f"/api/v1/algorithms/{name}")

    def version(self, name: str, target: str) -> Version:
        """One version, by number or alias."""
        return self._one(Version, "GET", f"/api/v1/algorithms/{name}/versions/{target}")

    def register(
        self, source: Path | str, name: str, metrics: Mapping[str, float] | None = None,
        card: Mapping[str, Any] | None = None, scenario: str = "",
    ) -> Version:  # fmt: skip
        """Register a folder, a file or an address (`runs:/…`, `hf:…`) as the next version.

        What has to be converted is compared on samples of `scenario`; empty: of its last exam's.
        """
        path = f"/api/v1/algorithms/{name}/versions"
        form = form_of(source, metrics, card, scenario)
        return self._one(Version, "POST", path, timeout=ADMISSION_SECONDS, **form)

    def convert(
        self, name: str, target: str, form: FormKind = "onnx", scenario: str = "", *,
        wait: bool = True,
    ) -> Conversion:  # fmt: skip
        """Make another form of a version and wait for it; a failed conversion raises its error."""
        body = NewConversion(form=form, scenario=scenario).model_dump()
        path = f"/api/v1/algorithms/{name}/versions/{target}/conversions"
        found = self._one(Conversion, "POST", path, json=body)
        if not wait:
            return found
        return self._finished(Conversion, f"/api/v1/conversions/{found.id}")

    def conversions(self, algorithm: str = "") -> list[Conversion]:
        """Conversions, newest first."""
        return self._many(Conversion, "/api/v1/conversions", algorithm=algorithm)

    def admission(self, name: str, version: int) -> dict[str, Any]:
        """What admission saw of a version: kind, conversion, parity, speed, scan."""
        return dict(self.call("GET", f"/api/v1/algorithms/{name}/versions/{version}/admission"))

    # Scenarios and evaluations

    def scenarios(self) -> list[ScenarioInfo]:
        """All scenarios."""
        return self._many(ScenarioInfo, "/api/v1/scenarios")

    def league(self, scenario: str) -> list[Evaluation]:
        """The scenario's league table, best first."""
        return self._many(Evaluation, f"/api/v1/scenarios/{scenario}/league")

    def evaluate(
        self, scenario: str, algorithm: str, target: str = "", data: str = "",
        watch: Watch = _unwatched,
    ) -> Evaluation:  # fmt: skip
        """Run a scenario and wait for the report; a failed run raises its error."""
        body = NewEvaluation(algorithm=algorithm, target=target, data=data).model_dump()
        path = f"/api/v1/scenarios/{scenario}/evaluations"
        found = self._one(Evaluation, "POST", path, json=body)
        return self._finished(
            Evaluation,
            f"/api/v1/evaluations/{found.id}",
            lambda seen: watch(seen.progress, f"evaluating {algorithm}"),
        )

    # Deployments

    def deployments(self) -> list[Deployment]:
        """What should run, and what was seen."""
        return self._many(Deployment, "/api/v1/deployments")

    def deploy(
        self, name: str, target: str = "champion", replicas: int | None = None, *,
        scaling: Scaling | None = None, shared: bool = False, cpus: int = 1, gpus: float = 0.0,
        wait: float = 120.0,
    ) -> Deployment:  # fmt: skip
        """Ask for a deployment and wait until it runs or failed.

        `replicas` fixes how many answer (nothing: 1); `scaling` lets the number follow the load;
        `shared` puts it into one replica with other light algorithms; each replica has `cpus` and
        `gpus` (a share of one, or a whole number).
        """
        new = NewDeployment(
            target=target, replicas=replicas, scaling=scaling, shared=shared, cpus=cpus, gpus=gpus
        )
        body = new.model_dump()
        found = self._one(Deployment, "PUT", f"/api/v1/deployments/{name}", json=body)
        deadline = time.monotonic() + wait
        while found.state in ("waiting", "starting") and time.monotonic() < deadline:
            time.sleep(0.3)
            found = self._one(Deployment, "GET", f"/api/v1/deployments/{name}/{target}")
        return found

    def undeploy(self, name: str, target: str = "champion") -> None:
        """Take a deployment down."""
        self.call("DELETE", f"/api/v1/deployments/{name}/{target}")

    def logs(self, name: str, target: str = "champion", lines: int = 100) -> dict[str, Any]:
        """Why it did not start, and the end of its replica's log."""
        path = f"/api/v1/deployments/{name}/{target}/log"
        found: dict[str, Any] = self.call("GET", path, params={"lines": lines})
        return found
