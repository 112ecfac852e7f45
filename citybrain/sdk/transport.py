"""One HTTP connection to a platform, with its errors as the core's classes."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel

from citybrain.core.errors import CityBrainError, PlatformDown, error_from
from citybrain.core.schemas import Conversion, Evaluation

Schema = TypeVar("Schema", bound=BaseModel)
Job = TypeVar("Job", Evaluation, Conversion)
LOOK_SECONDS = 0.3


class Transport:
    """What every part of the client stands on."""

    def __init__(
        self, url: str, key: str, *, timeout: float = 60.0, verify: ssl.SSLContext | None = None
    ) -> None:
        """`verify`: whose certificates are believed (`sdk/trust.py`); nothing: the system's."""
        self.url = url.rstrip("/")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(
            base_url=self.url,
            headers=headers,
            timeout=timeout,
            trust_env=False,
            verify=verify or True,
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
        with self._reaching():
            response = self._http.request(method, path, **options)
        return self._told(response)

    def _events(
        self, method: str, path: str, *, headers: dict[str, str], **options: Any
    ) -> Iterator[dict[str, Any]]:
        """What each server-sent event says; an error raises."""
        headers = {"accept": "text/event-stream", **headers}
        with (
            self._reaching(),
            self._http.stream(method, path, headers=headers, **options) as response,
        ):
            if not response.is_success:
                response.read()
                self._told(response)
            kind = ""
            for line in response.iter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    kind = value
                elif name == "data":
                    told = json.loads(value)
                    if kind == "error":
                        raise _problem(told)
                    yield told

    def _download(self, path: str, out: Path) -> Path:
        """Stream an answer into a file; it appears when all of it is there."""
        fresh = out.with_name(f".{out.name}.part")
        try:
            with self._reaching(), self._http.stream("GET", path) as response:
                if not response.is_success:
                    response.read()
                    self._told(response)
                with fresh.open("wb") as file:
                    for chunk in response.iter_bytes():
                        file.write(chunk)
            fresh.rename(out)
        finally:
            fresh.unlink(missing_ok=True)
        return out

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            raise PlatformDown(
                f"No platform answers at {self.url} ({type(error).__name__}).",
                hint="Start one with: citybrain up --detach",
            ) from error

    def _told(self, response: httpx.Response) -> Any:
        try:
            body = response.json() if response.content else None
        except ValueError:
            body = None
        if response.is_success:
            return body
        if isinstance(body, dict) and "code" in body:
            raise _problem(body)
        asked = f"{response.request.method} {response.request.url.path}"
        raise CityBrainError(f"{asked} was answered with {response.status_code}.")

    def _one(self, schema: type[Schema], method: str, path: str, **options: Any) -> Schema:
        return schema.model_validate(self.call(method, path, **options))

    def _finished(
        self, schema: type[Job], path: str, look: Callable[[Job], object] = lambda _: None
    ) -> Job:
        """A job's row when it is done; the error that it failed with, raised."""
        while (found := self._one(schema, "GET", path)).state in ("waiting", "running"):
            look(found)
            time.sleep(LOOK_SECONDS)
        if found.state == "failed":
            told = found.error
            raise error_from(
                told.get("code", "error"), told.get("message", ""), told.get("hint", "")
            )
        return found

    def _many(self, schema: type[Schema], path: str, **params: Any) -> list[Schema]:
        found = self.call("GET", path, params={k: v for k, v in params.items() if v})
        return [schema.model_validate(item) for item in found]


def _problem(body: dict[str, Any]) -> CityBrainError:
    return error_from(body["code"], body.get("detail", ""), body.get("hint", ""))
