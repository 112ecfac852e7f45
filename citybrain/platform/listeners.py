"""The listener census: nothing of ours may listen but the two doors and what asks for credentials."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import psutil

WORKER = "ray::"
"""Serve opens one gRPC port a replica on all addresses and offers no switch for it; with
RAY_USE_TLS it demands a certificate of this home's CA, so a Ray worker that runs with it is the
one exception. (Ray renames its workers with what they do: `ray::ServeReplica…`, `ray::v1:…`.)"""


def doors_at(host: str, port: int, grpc_port: int) -> set[tuple[str, int]]:
    """Where our doors listen; gRPC takes every address of IPv4 for every address of both kinds."""
    found = {(host, port), (host, grpc_port)}
    return found | {("::", grpc_port)} if host == "0.0.0.0" else found  # noqa: S104 - it was asked for


def foreign_listeners(
    processes: Iterable[psutil.Process], doors: set[tuple[str, int]]
) -> list[str]:
    """A sentence for each listening socket that is neither loopback, a door, nor a replica's."""
    found = []
    for process in processes:
        try:
            listening = [c for c in process.net_connections("tcp") if c.status == "LISTEN"]
            command = " ".join(process.cmdline()) or process.name()
            guarded = command.startswith(WORKER) and process.environ().get("RAY_USE_TLS") == "1"
        except psutil.Error:
            continue
        for connection in listening:
            address, port = connection.laddr.ip, connection.laddr.port
            if (address, port) in doors or _is_loopback(address):
                continue
            if guarded and address == "::":
                continue
            found.append(f"{command[:60]} (process {process.pid}) listens on {address}:{port}.")
    return found


def _is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool(parsed.is_loopback or (mapped is not None and mapped.is_loopback))
