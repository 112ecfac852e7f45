"""The client's calls about the sampled prediction log."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from citybrain.core.schemas import NewSampling, Prediction, Sampling
from citybrain.sdk.transport import Transport


class PredictionCalls(Transport):
    """How much of an algorithm's calls is kept, and what was kept."""

    def sampling(self, name: str) -> Sampling:
        """Which share of the calls is kept, and how long."""
        return self._one(Sampling, "GET", f"/api/v1/algorithms/{name}/sampling")

    def sample(self, name: str, new: NewSampling) -> Sampling:
        """Keep more or less of the calls from now on."""
        body = new.model_dump(mode="json")
        return self._one(Sampling, "PUT", f"/api/v1/algorithms/{name}/sampling", json=body)

    def predictions(self, name: str, *, since: str = "", limit: int = 100) -> list[Prediction]:
        """Sampled calls, newest first; without the right to see all, those of this department."""
        path = f"/api/v1/algorithms/{name}/predictions"
        return self._many(Prediction, path, since=since, limit=limit)

    def export_predictions(self, name: str, out: Path, *, since: str = "") -> Path:
        """The same into a Parquet file, by day, without a limit."""
        path = f"/api/v1/algorithms/{name}/predictions.parquet?since={quote(since)}"
        return self._download(path, out)
