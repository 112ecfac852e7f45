"""Plain ASGI with the model in the server's own process: no keys, no ledger, no replicas."""

from __future__ import annotations

from typing import Any

from oip_mlp import Mlp

mlp = Mlp()
START = {"type": "http.response.start", "status": 200}


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    message = await receive()
    body = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    answer = mlp.answer(body) if scope["method"] == "POST" else b"{}"
    headers = [(b"content-type", b"application/json"),
               (b"content-length", str(len(answer)).encode())]  # fmt: skip
    await send(START | {"headers": headers})
    await send({"type": "http.response.body", "body": answer})
