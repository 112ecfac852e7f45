"""Plain ASGI with the vision model in the server's own process: no keys, no ledger."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from oip_image import JSON_LENGTH, Image

image = Image(Path(os.environ["BENCH_MODEL"]))
START = {"type": "http.response.start", "status": 200}


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    parts = []
    more = True
    while more:
        message = await receive()
        parts.append(message["body"])
        more = message.get("more_body")
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    kind = "jpeg" if scope["path"].endswith("/predict") else "json"
    kind = "binary" if JSON_LENGTH in headers else kind
    answer = image.answer(kind, b"".join(parts), headers)
    await send(START | {"headers": [(b"content-length", str(len(answer)).encode())]})
    await send({"type": "http.response.body", "body": answer})
