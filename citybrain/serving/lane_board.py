"""The board of far lanes, kept by Ray's head for all nodes; and which door a replica has."""

from __future__ import annotations

from pathlib import Path

import msgspec

from citybrain.core.errors import Unavailable
from citybrain.core.settings import tls_of_ray
from citybrain.serving.lane_doors import LaneDoor, UnixDoor
from citybrain.serving.lane_far import FarLane, TcpDoor

HEAD = "node:__internal_head__"
"""The resource that Ray gives to the node of its head, where our gateways run, too."""
SPACE = b"citybrain"
BEGIN = "lane/"


class RayBoard:
    """Keys and values in Ray's own store; it goes when Ray's head goes, like every replica."""

    def put(self, name: str, lane: FarLane) -> None:
        """Announce it, or say something else of it."""
        from ray.experimental.internal_kv import _internal_kv_put

        _internal_kv_put(BEGIN + name, msgspec.json.encode(lane), overwrite=True, namespace=SPACE)

    def drop(self, name: str) -> None:
        """It is there no more."""
        from ray.experimental.internal_kv import _internal_kv_del

        _internal_kv_del(BEGIN + name, namespace=SPACE)

    def all(self) -> dict[str, FarLane]:
        """Those of nodes that live; those of others are dropped."""
        import ray
        from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_list

        found: dict[str, FarLane] = {}
        for key in _internal_kv_list(BEGIN, namespace=SPACE):
            if data := _internal_kv_get(key, namespace=SPACE):
                name = key.decode().removeprefix(BEGIN)
                found[name] = msgspec.json.decode(data, type=FarLane)
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]} if found else set()
        for name in [name for name, lane in found.items() if lane.node not in alive]:
            self.drop(name)
            del found[name]
        return found


def door_here(folder: Path, app: str) -> LaneDoor:
    """In a replica: a socket in the folder of lanes on the gateways' node, TCP on every other."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    (node,) = (found for found in ray.nodes() if found["NodeID"] == here)
    if HEAD in node["Resources"]:
        return UnixDoor(folder, app)
    files = tls_of_ray()
    if files is None:
        raise Unavailable(
            f"Ray's node {node['NodeManagerAddress']} runs without TLS.",
            hint="Start it with the RAY_TLS_… variables of the head's node.",
        )
    return TcpDoor(RayBoard(), app, node["NodeManagerAddress"], here, files)
