"""Ray Serve behind the proxy that its environment switches on, in a Ray of its own.

Run as `python ray_peer.py PORT TEMPORARY_FOLDER`; it ends its Ray when it is told to end.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import ray
from oip_mlp import Mlp
from ray import serve
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(num_replicas=int(os.environ["BENCH_WORKERS"]), max_ongoing_requests=256)
class Plain:
    """What Ray Serve's first page shows, with bytes in place of dictionaries."""

    def __init__(self) -> None:
        self._mlp = Mlp()

    async def __call__(self, request: Request) -> Any:
        if request.method != "POST":
            return Response(b"{}", media_type="application/json")
        body = await request.body()
        return Response(self._mlp.answer(body), media_type="application/json")


def main() -> None:
    port, folder = int(sys.argv[1]), sys.argv[2]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ray.init(
        num_cpus=4, include_dashboard=False, log_to_driver=False, _temp_dir=folder,
        _node_ip_address="127.0.0.1", object_store_memory=128 << 20,
    )  # fmt: skip
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Plain.bind(), route_prefix="/")
    try:
        signal.pause()
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
