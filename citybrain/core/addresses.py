"""Where a call comes from: through a named proxy or straight, and whether a key may come from there."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from citybrain.core.errors import InvalidInput

Network = IPv4Network | IPv6Network

LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


def read_networks(texts: list[str]) -> tuple[Network, ...]:
    """`10.1.0.0/16`, `fd00::/8` or a single address; InvalidInput for anything else."""
    try:
        return tuple(ip_network(text.strip(), strict=False) for text in texts)
    except ValueError as error:
        raise InvalidInput(
            f"{str(error)[:120]}.", hint="Write networks like 10.1.0.0/16 or fd00::/8."
        ) from error


def is_within(address: str, networks: tuple[Network, ...]) -> bool:
    """Whether an address lies in one of these networks; what is no address lies nowhere."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, IPv6Address) and found.ipv4_mapped:
        found = found.ipv4_mapped
    return any(found in network for network in networks)


def is_loopback(address: str) -> bool:
    """Whether an address is of this machine's own; what is no address is not."""
    return is_within(address, LOOPBACK)


class Proxies:
    """The proxies that are believed when they say for whom they ask."""

    def __init__(self, said: str = "") -> None:
        self._known = read_networks([one for one in said.split(",") if one.strip()])

    def trusts(self, peer: str) -> bool:
        """Whether this peer is one of them."""
        return bool(self._known) and is_within(peer, self._known)

    def caller(self, peer: str, forwarded: str) -> str:
        """The caller's address: the peer's, or what the nearest stranger is called by our proxies.

        `X-Forwarded-For` grows at its end: what stands before the first address that is not a proxy
        of ours was written by somebody whom nobody needs to believe.
        """
        for said in reversed(forwarded.split(",")) if forwarded else ():
            if not self.trusts(peer):
                break
            address = re.sub(r"^\[(.*)\](:\d+)?$|^([\d.]+):\d+$", r"\1\3", said.strip())
            try:
                peer = str(ip_address(address))
            except ValueError:
                break
        return peer
