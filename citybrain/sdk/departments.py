"""The client's calls about departments, keys, grants, usage, audit and features."""

from __future__ import annotations

from typing import Any

from citybrain.core.schemas import (
    AuditEntry,
    Department,
    Grant,
    IssuedKey,
    Key,
    NewDepartment,
    NewGrant,
    NewKey,
    UsageLine,
)
from citybrain.sdk.transport import Transport


class DepartmentCalls(Transport):
    """Who may do what, who did what, and the features that they share."""

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
