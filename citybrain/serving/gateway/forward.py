"""What is not data plane goes to the control process, over a Unix socket in the home."""

from __future__ import annotations

from collections.abc import AsyncIterator
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path

import httpx

from citybrain.core.addresses import Proxies
from citybrain.core.errors import NotReady
from citybrain.serving.gateway.messages import Disconnected, Receive, Scope, Send

HOP_BY_HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te", b"trailer"}
CLAIMED = {b"x-forwarded-for", b"x-forwarded-proto", b"forwarded"}
"""What a client may claim of itself; only we know where a request came from."""


ADDRESS = "http://control"


class Forwarder:
    """Streams a request there and its answer back."""

    def __init__(
        self, socket: Path, what: str = "The control process", proxies: Proxies | None = None
    ) -> None:
        self._what = what
        self._proxies = proxies or Proxies()
        transport = httpx.AsyncHTTPTransport(uds=str(socket), retries=2)
        self._client = httpx.AsyncClient(
            transport=transport,
            base_url=ADDRESS,
            timeout=httpx.Timeout(700, connect=5),  # a large model's admission takes minutes
            # It forwards for everybody, so it keeps the cookie of nobody.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward one request; NotReady while nobody is there."""
        # The path as it came: decoded here and once more over there, it would be another one.
        path, query = scope["raw_path"], scope.get("query_string", b"")
        url = httpx.URL(ADDRESS).copy_with(raw_path=path + b"?" + query if query else path)
        headers = [(k, v) for k, v in scope["headers"] if k not in HOP_BY_HOP | CLAIMED]
        headers += self._caller(scope)

        async def body() -> AsyncIterator[bytes]:
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Disconnected
                more = message.get("more_body", False)
                yield message.get("body", b"")

        has_body = any(k in (b"content-length", b"transfer-encoding") for k, _ in scope["headers"])
        request = self._client.build_request(
            scope["method"], url, headers=headers, content=body() if has_body else None
        )
        try:
            response = await self._client.send(request, stream=True)
        except httpx.TransportError as error:
            raise NotReady(
                f"{self._what} is being started.", hint="Repeat in a few seconds."
            ) from error
        try:
            kept = [(k.lower(), v) for k, v in response.headers.raw if k.lower() not in HOP_BY_HOP]
            await send(
                {
                    "type": "http.response.start",
                    "status": response.status_code,
                    "headers": kept,
                }
            )
            async for chunk in response.aiter_raw():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await response.aclose()

    def _caller(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """Whom the request comes from, and whether it came enciphered to a proxy of ours."""
        if not scope.get("client"):
            return []
        given: dict[bytes, bytes] = dict(scope["headers"])
        peer = scope["client"][0]
        said = given.get(b"x-forwarded-for", b"")[:1000].decode("latin-1")
        found = [(b"x-forwarded-for", self._proxies.caller(peer, said).encode())]
        if self._proxies.trusts(peer) and given.get(b"x-forwarded-proto") in (b"http", b"https"):
            found.append((b"x-forwarded-proto", given[b"x-forwarded-proto"]))
        elif scope["scheme"] == "https":
            found.append((b"x-forwarded-proto", b"https"))
        return found

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
