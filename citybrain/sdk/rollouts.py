"""The client's calls about sharing traffic and trying releases."""

from __future__ import annotations

from typing import Any

from citybrain.core.schemas import Canary, Comparison, NewCanary, NewTraffic, Traffic
from citybrain.sdk.transport import Transport


class RolloutCalls(Transport):
    """Splits, canaries, shadows and fallbacks."""

    def traffic(self, name: str) -> Traffic:
        """How calls that name no alias are shared."""
        return self._one(Traffic, "GET", f"/api/v1/algorithms/{name}/traffic")

    def set_traffic(self, name: str, new: NewTraffic) -> Traffic:
        """Share calls among deployments; an empty plan sends all to the champion."""
        body = new.model_dump(mode="json")
        return self._one(Traffic, "PUT", f"/api/v1/algorithms/{name}/traffic", json=body)

    def canary(self, name: str, new: NewCanary) -> Canary:
        """Try a deployed release on a growing part of the calls."""
        body = new.model_dump(mode="json")
        return self._one(Canary, "POST", f"/api/v1/algorithms/{name}/canaries", json=body)

    def canaries(self, name: str = "") -> list[Canary]:
        """Releases that were tried, newest first; of every algorithm without a name."""
        place = f"algorithms/{name}/canaries" if name else "canaries"
        return self._many(Canary, f"/api/v1/{place}")

    def comparison(self, name: str) -> list[Comparison]:
        """Whether one side of a split, or of the last canary, is better than the other."""
        return self._many(Comparison, f"/api/v1/algorithms/{name}/comparison")

    def stop_canary(self, name: str) -> Canary:
        """Take the canary back now."""
        return self._one(Canary, "DELETE", f"/api/v1/algorithms/{name}/canaries")

    def shadow(self, name: str) -> dict[str, Any]:
        """How far the shadow's answers were from those that callers got."""
        return dict(self.call("GET", f"/api/v1/algorithms/{name}/shadow"))
