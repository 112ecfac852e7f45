"""The client's calls about asking for grants, stopping things, bills and the audit's proof."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from citybrain.core.schemas.audits import Checkpoint, Verification
from citybrain.core.schemas.bills import (
    Income,
    LowUse,
    NewPrice,
    NewRating,
    OneCall,
    Operation,
    Price,
    PurposeUse,
    Rating,
    Statement,
)
from citybrain.core.schemas.grants import (
    Deidentification,
    Forbidden,
    GrantRequest,
    NewDeidentification,
    NewForbidden,
    NewGrantRequest,
    NewSuspension,
    Notice,
    Pin,
    Suspension,
)
from citybrain.sdk.transport import Transport

API = "/api/v1"


class GrantCalls(Transport):
    """What departments ask for, are told and pay."""

    def grant_requests(self, state: str = "") -> list[GrantRequest]:
        """Requests of this department, and about its algorithms."""
        return self._many(GrantRequest, f"{API}/grant-requests", state=state)

    def ask_grant(self, new: NewGrantRequest) -> GrantRequest:
        """Ask for a grant."""
        return self._one(GrantRequest, "POST", f"{API}/grant-requests", json=_said(new))

    def decide_grant(self, request_id: str, decision: str, answer: str = "") -> GrantRequest:
        """`approve`, `refuse` or `withdraw` a request."""
        path = f"{API}/grant-requests/{request_id}/{decision}"
        body = {} if decision == "withdraw" else {"json": {"answer": answer}}
        return self._one(GrantRequest, "POST", path, **body)

    def suspensions(self, *, ended: bool = False) -> list[Suspension]:
        """What is stopped."""
        return self._many(Suspension, f"{API}/suspensions", ended="true" if ended else "")

    def suspend(self, new: NewSuspension) -> Suspension:
        """Stop an algorithm, a grant, a key or a department at once."""
        return self._one(Suspension, "POST", f"{API}/suspensions", json=_said(new))

    def lift(self, suspension_id: str) -> Suspension:
        """Let it go on."""
        return self._one(Suspension, "DELETE", f"{API}/suspensions/{suspension_id}")

    def pins(self) -> list[Pin]:
        """Versions that departments stay with."""
        return self._many(Pin, f"{API}/pins")

    def pin(self, algorithm: str, version: int) -> Pin:
        """Stay with a version."""
        path = f"{API}/algorithms/{algorithm}/pin"
        return self._one(Pin, "PUT", path, json={"version": version})

    def unpin(self, algorithm: str) -> None:
        """Follow the champion again."""
        self.call("DELETE", f"{API}/algorithms/{algorithm}/pin")

    def deidentifications(self) -> list[Deidentification]:
        """Steps that make answers less sensitive."""
        return self._many(Deidentification, f"{API}/deidentifications")

    def ask_to_lower(self, new: NewDeidentification) -> Deidentification:
        """Say how answers are made less sensitive."""
        return self._one(Deidentification, "POST", f"{API}/deidentifications", json=_said(new))

    def approve_lower(self, entry_id: str) -> Deidentification:
        """Approve that, as another person."""
        return self._one(Deidentification, "POST", f"{API}/deidentifications/{entry_id}/approve")

    def forbidden(self) -> list[Forbidden]:
        """The negative list."""
        return self._many(Forbidden, f"{API}/forbidden")

    def forbid(self, new: NewForbidden) -> Forbidden:
        """Add a line to it."""
        return self._one(Forbidden, "POST", f"{API}/forbidden", json=_said(new))

    def allow(self, line_id: str) -> Forbidden:
        """Take a line away."""
        return self._one(Forbidden, "DELETE", f"{API}/forbidden/{line_id}")

    def notices(self, *, unread: bool = False) -> list[Notice]:
        """What this department should know."""
        return self._many(Notice, f"{API}/notices", unread="true" if unread else "")

    def read_notice(self, notice_id: int) -> Notice:
        """Mark one as read."""
        return self._one(Notice, "POST", f"{API}/notices/{notice_id}/read")

    def read_notices(self) -> int:
        """Mark all as read; how many were new."""
        return int(self.call("POST", f"{API}/notices/read")["read"])

    # Bills

    def prices(self) -> list[Price]:
        """The price book."""
        return self._many(Price, f"{API}/prices")

    def set_price(self, new: NewPrice) -> Price:
        """Add a version of a line."""
        return self._one(Price, "POST", f"{API}/prices", json=_said(new))

    def statement(self, department: str, month: str) -> Statement:
        """A department's month."""
        return self._one(Statement, "GET", f"{API}/statements/{department}/{month}")

    def statement_csv(self, department: str, month: str, out: Path) -> Path:
        """The same as CSV."""
        return self._download(f"{API}/statements/{department}/{month}?format=csv", out)

    def issue_statement(self, department: str, month: str) -> Statement:
        """Fix a month that is over."""
        return self._one(Statement, "POST", f"{API}/statements/{department}/{month}")

    def calls_of_line(
        self, department: str, month: str, number: int, after: str = "", limit: int = 200
    ) -> list[OneCall]:
        """The calls behind a line."""
        path = f"{API}/statements/{department}/{month}/lines/{number}"
        return self._many(OneCall, path, after=after, limit=limit)

    def income(self, month: str, owner: str = "") -> list[Income]:
        """What departments owe of this department's algorithms."""
        return self._many(Income, f"{API}/income", month=month, owner=owner)

    def calls(
        self, algorithm: str = "", *, failed: bool = False, since: str = "", limit: int = 100
    ) -> list[OneCall]:
        """This department's own calls, newest first."""
        return self._many(
            OneCall, f"{API}/calls", algorithm=algorithm, since=since, limit=limit,
            failed="true" if failed else "",
        )  # fmt: skip

    def rate(self, request_id: str, stars: int, reason: str = "") -> Rating:
        """Say what an answer was worth."""
        new = NewRating(stars=stars, reason=reason)
        return self._one(Rating, "POST", f"/v1/requests/{request_id}/rating", json=_said(new))

    def operation(self, scenario: str) -> Operation:
        """How a scenario is used."""
        return self._one(Operation, "GET", f"{API}/scenarios/{scenario}/operation")

    def low_use(self, days: int = 30, fewer: int = 100) -> list[LowUse]:
        """Algorithms that hardly anybody calls."""
        return self._many(LowUse, f"{API}/low-use", days=days, fewer=fewer)

    def purposes(self, month: str) -> list[PurposeUse]:
        """What was called for which purpose."""
        return self._many(PurposeUse, f"{API}/purposes", month=month)

    # Audit

    def checkpoints(self) -> list[Checkpoint]:
        """Signed checkpoints of the audit trail."""
        return self._many(Checkpoint, f"{API}/audit/checkpoints")

    def verify_audit(self, kept: list[Checkpoint] | None = None) -> Verification:
        """Whether the trail is as it was written, against checkpoints that were kept elsewhere."""
        body = {"checkpoints": [point.model_dump(mode="json") for point in kept or []]}
        return self._one(Verification, "POST", f"{API}/audit/verification", json=body)

    def export_audit(self, out: Path, since: str = "", until: str = "") -> Path:
        """The trail as JSON lines."""
        return self._download(f"{API}/audit/export?since={since}&until={until}", out)


def _said(schema: Any) -> dict[str, Any]:
    found: dict[str, Any] = schema.model_dump(mode="json")
    return found
