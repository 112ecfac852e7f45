"""A client of a running platform."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel

from citybrain.core.errors import CityBrainError, PlatformDown, error_from
from citybrain.core.schemas import (
    Algorithm,
    AlgorithmPage,
    AliasMove,
    AuditEntry,
    Department,
    Deployment,
    Evaluation,
    Grant,
    IssuedKey,
    Key,
    NewDepartment,
    NewDeployment,
    NewEvaluation,
    NewGrant,
    NewKey,
    NewPromotion,
    PlatformStatus,
    Promotion,
    ScenarioInfo,
    UsageLine,
    Version,
)
from citybrain.sdk.upload import form_of

Schema = TypeVar("Schema", bound=BaseModel)
Watch = Callable[[float, str], None]
ADMISSION_SECONDS = 700.0


def _unwatched(_: float, __: str) -> None:
    return


class CityBrain:
    """Every route of the platform as a method; use it as a context manager or `close` it.

    >>> with CityBrain("http://127.0.0.1:8080", key) as city:      # doctest: +SKIP
    ...     city.predict("hotline-router", [{"text": "路灯坏了"}])
    """

    def __init__(self, url: str, key: str, *, timeout: float = 60.0) -> None:
        self.url = url.rstrip("/")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(
            base_url=self.url, headers=headers, timeout=timeout, trust_env=False
        )

    def __enter__(self) -> CityBrain:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def call(self, method: str, path: str, **options: Any) -> Any:
        """One request; its JSON, or the error that it stands for."""
        try:
            response = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise PlatformDown(
                f"No platform answers at {self.url} ({type(error).__name__}).",
                hint="Start one with: citybrain up --detach",
            ) from error
        try:
            body = response.json() if response.content else None
        except ValueError:
            body = None
        if response.is_success:
            return body
        if isinstance(body, dict) and "code" in body:
            raise error_from(body["code"], body.get("detail", ""), body.get("hint", ""))
        raise CityBrainError(f"{method} {path} was answered with {response.status_code}.")

    def _one(self, schema: type[Schema], method: str, path: str, **options: Any) -> Schema:
        return schema.model_validate(self.call(method, path, **options))

    def _many(self, schema: type[Schema], path: str, **params: Any) -> list[Schema]:
        found = self.call("GET", path, params={k: v for k, v in params.items() if v})
        return [schema.model_validate(item) for item in found]

    # What departments call

    def predict(self, name: str, inputs: list[Any], *, purpose: str = "") -> dict[str, Any]:
        """Answer items of the algorithm's task; `results` has one entry an item."""
        headers = {"x-purpose": purpose} if purpose else {}
        path = f"/v1/algorithms/{name}/predict"
        found: dict[str, Any] = self.call("POST", path, json={"inputs": inputs}, headers=headers)
        return found

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
        card: Mapping[str, Any] | None = None,
    ) -> Version:  # fmt: skip
        """Register a folder, a file or an address (`runs:/…`, `hf:…`) as the next version."""
        path, form = f"/api/v1/algorithms/{name}/versions", form_of(source, metrics, card)
        return self._one(Version, "POST", path, timeout=ADMISSION_SECONDS, **form)

    def admission(self, name: str, version: int) -> dict[str, Any]:
        """What admission saw of a version: kind, conversion, parity, speed, scan."""
        return dict(self.call("GET", f"/api/v1/algorithms/{name}/versions/{version}/admission"))

    def promote(self, name: str, version: int | None = None, alias: str = "champion") -> Promotion:
        """Ask for a version behind an alias."""
        body = NewPromotion(version=version, alias=alias).model_dump()
        return self._one(Promotion, "POST", f"/api/v1/algorithms/{name}/promotions", json=body)

    def approve(self, promotion_id: str) -> Promotion:
        """Approve somebody's promotion."""
        return self._one(Promotion, "POST", f"/api/v1/promotions/{promotion_id}/approve")

    def withdraw(self, promotion_id: str) -> Promotion:
        """Take a waiting promotion back."""
        return self._one(Promotion, "POST", f"/api/v1/promotions/{promotion_id}/withdraw")

    def promotions(self, state: str = "") -> list[Promotion]:
        """Promotions, newest first."""
        return self._many(Promotion, "/api/v1/promotions", state=state)

    def roll_back(self, name: str, alias: str = "champion") -> AliasMove:
        """Point an alias to the version before."""
        path = f"/api/v1/algorithms/{name}/rollback"
        return self._one(AliasMove, "POST", path, params={"alias": alias})

    def alias_history(self, name: str) -> list[AliasMove]:
        """Who moved which alias when."""
        return self._many(AliasMove, f"/api/v1/algorithms/{name}/aliases")

    def set_approval(self, name: str, rule: str) -> Algorithm:
        """`self` or `four-eyes`."""
        return self._one(Algorithm, "PUT", f"/api/v1/algorithms/{name}/approval/{rule}")

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
        while found.state in ("waiting", "running"):
            time.sleep(0.3)
            found = self._one(Evaluation, "GET", f"/api/v1/evaluations/{found.id}")
            watch(found.progress, f"evaluating {algorithm}")
        if found.state == "failed":
            error = found.error
            raise error_from(
                error.get("code", "error"), error.get("message", ""), error.get("hint", "")
            )
        return found

    # Deployments

    def deployments(self) -> list[Deployment]:
        """What should run, and what was seen."""
        return self._many(Deployment, "/api/v1/deployments")

    def deploy(
        self, name: str, target: str = "champion", replicas: int = 1, *, wait: float = 120.0
    ) -> Deployment:
        """Ask for a deployment and wait until it runs or failed."""
        body = NewDeployment(target=target, replicas=replicas).model_dump()
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

    # Departments

    def departments(self) -> list[Department]:
        """All departments."""
        return self._many(Department, "/api/v1/departments")

    def add_department(self, name: str, title_zh: str = "", title_en: str = "") -> Department:
        """Add a department."""
        new = NewDepartment(name=name, title_zh=title_zh, title_en=title_en)
        return self._one(Department, "POST", "/api/v1/departments", json=new.model_dump())

    def keys(self) -> list[Key]:
        """Keys, without secrets."""
        return self._many(Key, "/api/v1/keys")

    def add_key(self, new: NewKey) -> IssuedKey:
        """Issue a key; keep its secret, it is shown once."""
        return self._one(IssuedKey, "POST", "/api/v1/keys", json=new.model_dump(mode="json"))

    def revoke_key(self, key_id: str) -> Key:
        """Revoke a key."""
        return self._one(Key, "DELETE", f"/api/v1/keys/{key_id}")

    def grants(self) -> list[Grant]:
        """Grants."""
        return self._many(Grant, "/api/v1/grants")

    def add_grant(self, new: NewGrant) -> Grant:
        """Let a department call an algorithm."""
        return self._one(Grant, "POST", "/api/v1/grants", json=new.model_dump(mode="json"))

    def revoke_grant(self, grant_id: str) -> Grant:
        """End a grant."""
        return self._one(Grant, "DELETE", f"/api/v1/grants/{grant_id}")

    def usage(self, since: str = "") -> list[UsageLine]:
        """Usage by day."""
        return self._many(UsageLine, "/api/v1/usage", since=since)

    def audit(self, limit: int = 200) -> list[AuditEntry]:
        """The audit trail, newest first."""
        return self._many(AuditEntry, "/api/v1/audit", limit=limit)

    # Features

    def push_features(self, rows: list[dict[str, Any]]) -> int:
        """Write sensor histories: `sensor`, `values`, `last_time` (ISO 8601 with a zone)."""
        found: dict[str, int] = self.call("POST", "/v1/features/push", json={"rows": rows})
        return found["rows"]

    def online_features(self, service: str, entities: list[str]) -> list[dict[str, Any] | None]:
        """Read what an algorithm would get for these entities."""
        body = {"service": service, "entities": entities}
        found: dict[str, Any] = self.call("POST", "/v1/features/online", json=body)
        rows: list[dict[str, Any] | None] = found["rows"]
        return rows
