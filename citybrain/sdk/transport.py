"""One HTTP connection to a platform, with its errors as the core's classes."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel

from citybrain.core.errors import CityBrainError, PlatformDown, error_from

Schema = TypeVar("Schema", bound=BaseModel)


class Transport:
    """What every part of the client stands on."""

    def __init__(self, url: str, key: str, *, timeout: float = 60.0) -> None:
        self.url = url.rstrip("/")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(
            base_url=self.url, headers=headers, timeout=timeout, trust_env=False
        )

    def __enter__(self) -> Self:
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
