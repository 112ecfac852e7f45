"""The client's calls about departments, keys, grants, usage, audit and features."""

from __future__ import annotations

from typing import Any

from citybrain.core.schemas import (
    AuditEntry,
    Department,
    DepartmentChange,
    Grant,
    IssuedKey,
    Key,
    NewDepartment,
    NewGrant,
    NewKey,
    NewRotation,
    UsageLine,
)
from citybrain.core.schemas.people import Tier
from citybrain.core.schemas.quotas import (
    Allotment,
    AllotmentUse,
    NewAllotment,
    NewQuota,
    Quota,
    QuotaUse,
)
from citybrain.core.schemas.retention import NewRetention, Retention
from citybrain.sdk.transport import Transport


class DepartmentCalls(Transport):
    """Who may do what, who did what, and the features that they share."""

    def departments(self, under: str = "") -> list[Department]:
        """All departments, or one with all below it."""
        return self._many(Department, "/api/v1/departments", under=under)

    def add_department(
        self, name: str, title_zh: str = "", title_en: str = "", *, parent: str = "",
        tier: Tier | None = None,
    ) -> Department:  # fmt: skip
        """Add a department, below another or at the top."""
        new = NewDepartment(
            name=name, title_zh=title_zh, title_en=title_en, parent=parent, tier=tier
        )
        return self._one(Department, "POST", "/api/v1/departments", json=new.model_dump())

    def change_department(self, name: str, change: DepartmentChange) -> Department:
        """Give a department another title, or another place in the tree."""
        body = change.model_dump(exclude_none=True)
        return self._one(Department, "PATCH", f"/api/v1/departments/{name}", json=body)

    def keys(self, under: str = "") -> list[Key]:
        """Keys, without secrets."""
        return self._many(Key, "/api/v1/keys", under=under)

    def add_key(self, new: NewKey) -> IssuedKey:
        """Issue a key; keep its secret, it is shown once."""
        return self._one(IssuedKey, "POST", "/api/v1/keys", json=new.model_dump(mode="json"))

    def rotate_key(self, key_id: str, new: NewRotation | None = None) -> IssuedKey:
        """Replace a key by a new one with the same rights; the old one ends after the overlap."""
        body = (new or NewRotation()).model_dump(mode="json")
        return self._one(IssuedKey, "POST", f"/api/v1/keys/{key_id}/rotation", json=body)

    def revoke_key(self, key_id: str) -> Key:
        """Revoke a key."""
        return self._one(Key, "DELETE", f"/api/v1/keys/{key_id}")

    def grants(self, under: str = "") -> list[Grant]:
        """Grants."""
        return self._many(Grant, "/api/v1/grants", under=under)

    def add_grant(self, new: NewGrant) -> Grant:
        """Let a department call an algorithm."""
        return self._one(Grant, "POST", "/api/v1/grants", json=new.model_dump(mode="json"))

    def revoke_grant(self, grant_id: str) -> Grant:
        """End a grant."""
        return self._one(Grant, "DELETE", f"/api/v1/grants/{grant_id}")

    def quotas(self) -> list[QuotaUse]:
        """Limits, and what is used of them now."""
        return self._many(QuotaUse, "/api/v1/quotas")

    def set_quota(self, new: NewQuota) -> Quota:
        """Set a limit, in place of the one for the same algorithm, unit and period."""
        return self._one(Quota, "PUT", "/api/v1/quotas", json=new.model_dump(mode="json"))

    def end_quota(self, quota_id: str) -> Quota:
        """Take a limit away."""
        return self._one(Quota, "DELETE", f"/api/v1/quotas/{quota_id}")

    def allotments(self) -> list[AllotmentUse]:
        """What departments' deployments may take, and what they take."""
        return self._many(AllotmentUse, "/api/v1/allotments")

    def allot(self, department: str, new: NewAllotment) -> Allotment:
        """Say what a department's deployments may take together."""
        path = f"/api/v1/allotments/{department}"
        return self._one(Allotment, "PUT", path, json=new.model_dump(mode="json"))

    def retention(self) -> list[Retention]:
        """Every log, and how long it is kept."""
        return self._many(Retention, "/api/v1/retention")

    def set_retention(self, log: str, new: NewRetention) -> Retention:
        """Keep a log so many days."""
        path = f"/api/v1/retention/{log}"
        return self._one(Retention, "PUT", path, json=new.model_dump(mode="json"))

    def usage(self, since: str = "", under: str = "") -> list[UsageLine]:
        """Usage by day."""
        return self._many(UsageLine, "/api/v1/usage", since=since, under=under)

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
