"""The client's calls about aliases, history, lineage, cards and endings."""

from __future__ import annotations

from citybrain.core.schemas import (
    Algorithm,
    AliasMove,
    AsOf,
    Caller,
    Card,
    LineageGraph,
    NewPromotion,
    NewRetirement,
    Promotion,
    PromotionNotice,
    Retirement,
    Version,
    VersionEnd,
    Withdrawal,
)
from citybrain.sdk.transport import Transport


class LifecycleCalls(Transport):
    """What happens to versions between their registration and their end."""

    def promote(
        self, name: str, version: int | None = None, alias: str = "champion", source: str = "",
        *, expected: int | None = None,
    ) -> Promotion:  # fmt: skip
        """Ask for a version, or for the one behind the alias `source`, behind an alias.

        With `expected`, only if the alias still points to that version (0: to none).
        """
        new = NewPromotion(version=version, alias=alias, source=source, expected=expected)
        path = f"/api/v1/algorithms/{name}/promotions"
        return self._one(Promotion, "POST", path, json=new.model_dump())

    def promotion_notice(
        self, name: str, version: int | None = None, alias: str = "champion", source: str = ""
    ) -> PromotionNotice:
        """What that promotion would change and who called lately; nothing is asked for."""
        new = NewPromotion(version=version, alias=alias, source=source)
        path = f"/api/v1/algorithms/{name}/promotions/dry-run"
        return self._one(PromotionNotice, "POST", path, json=new.model_dump())

    def promotion(self, promotion_id: str) -> Promotion:
        """One promotion."""
        return self._one(Promotion, "GET", f"/api/v1/promotions/{promotion_id}")

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

    def as_of(self, at: str, algorithm: str = "") -> AsOf:
        """Aliases, deployments and grants as they were at a moment (ISO 8601)."""
        return self._one(AsOf, "GET", "/api/v1/as-of", params={"at": at, "algorithm": algorithm})

    def lineage(self, name: str, version: int | None = None) -> LineageGraph:
        """What a version came from and what came of it; without one, of all versions."""
        path = f"/api/v1/algorithms/{name}/lineage"
        return self._one(LineageGraph, "GET", path, params=_version(version))

    def lineage_of_data(self, digest: str) -> LineageGraph:
        """Everything that came of a data set, down to the departments."""
        return self._one(LineageGraph, "GET", "/api/v1/lineage", params={"data_digest": digest})

    def card(self, name: str, target: str = "") -> Card:
        """The card of a version, by number or alias; the champion's without one."""
        path = f"/api/v1/algorithms/{name}/card"
        return self._one(Card, "GET", path, params={"target": target})

    def callers(self, name: str, version: int | None = None) -> list[Caller]:
        """Departments and keys that called in the last 30 days."""
        return self._many(Caller, f"/api/v1/algorithms/{name}/callers", **_version(version))

    def retire(
        self, name: str, sunset: str, *, version: int | None = None, replacement: str = ""
    ) -> Retirement:
        """Give callers notice; after the sunset, calls are refused with `retired`."""
        new = NewRetirement(version=version, sunset=sunset, replacement=replacement)
        path = f"/api/v1/algorithms/{name}/retirement"
        return self._one(Retirement, "POST", path, json=new.model_dump())

    def undo_retirement(self, name: str, version: int | None = None) -> None:
        """Take the notice back."""
        self.call("DELETE", f"/api/v1/algorithms/{name}/retirement", params=_version(version))

    def withdraw_version(self, name: str, version: int, reason: str) -> VersionEnd:
        """Close a mistaken version for promotion and deployment."""
        path = f"/api/v1/algorithms/{name}/versions/{version}/withdraw"
        return self._one(VersionEnd, "POST", path, json=Withdrawal(reason=reason).model_dump())

    def delete_version(self, name: str, version: int) -> VersionEnd:
        """Remove a withdrawn version; its history stays."""
        return self._one(VersionEnd, "DELETE", f"/api/v1/algorithms/{name}/versions/{version}")

    # Signatures

    def signers(self) -> dict[str, dict[str, str]]:
        """The keys that vouch for versions: public half, state, since when."""
        return dict(self.call("GET", "/api/v1/signers"))

    def rotate_signer(self) -> dict[str, dict[str, str]]:
        """Sign with a new key from now on."""
        return dict(self.call("POST", "/api/v1/signers"))

    def revoke_signer(self, name: str) -> dict[str, dict[str, str]]:
        """Trust a key no more."""
        return dict(self.call("POST", f"/api/v1/signers/{name}/revoke"))

    def sign(self, name: str, version: int) -> Version:
        """Vouch for a version again."""
        return self._one(Version, "POST", f"/api/v1/algorithms/{name}/versions/{version}/sign")


def _version(version: int | None) -> dict[str, int]:
    return {"version": version} if version else {}
