"""How many calls each of many may make: a bucket each, that fills all the time."""

from __future__ import annotations

import asyncio
import ipaddress

from vistaflow_services.core.lru import Lru

KEPT = 10_000
"""Most buckets in memory; the caller that was silent for longest gets a full bucket again."""


class Buckets:
    """What each has left.

    Args:
        rate: Calls a second that fill a bucket; 0 for any number.
        most: What a full bucket holds.
    """

    def __init__(self, rate: float, most: float) -> None:
        self.rate = rate
        self._most = most
        self._left: Lru[str, tuple[float, float]] = Lru(KEPT)

    def take(self, who: str) -> float:
        """Takes one call out of a bucket; if there is none, the seconds until there is, else 0."""
        if not self.rate:
            return 0.0
        now = asyncio.get_running_loop().time()
        left, updated_at = self._left.peek(who) or (self._most, now)
        left = min(self._most, left + (now - updated_at) * self.rate)
        if left < 1:
            return (1 - left) / self.rate
        self._left.put(who, (left - 1, now))
        return 0.0

    def give_back(self, who: str) -> None:
        """Puts back what a call took that is not to count."""
        bucket = self._left.peek(who)
        if bucket is not None:
            left, updated_at = bucket
            self._left.put(who, (left + 1, updated_at))


def machine(peer: str) -> str:
    """The machine of a peer such as `ipv4:10.0.0.7:41234`: without the port.

    Of IPv6 it is the network of 64 bits, of which one machine may have every address.
    """
    host = peer.rpartition(":")[0] if peer.startswith("ip") else peer
    if not host.startswith("ipv6:"):
        return host
    address = host.removeprefix("ipv6:").replace("%5B", "").replace("%5D", "").strip("[]")
    try:
        network = ipaddress.IPv6Network((address.partition("%")[0], 64), strict=False)
    except ValueError:
        return host
    mapped = ipaddress.IPv6Address(address.partition("%")[0]).ipv4_mapped
    return f"ipv4:{mapped}" if mapped else f"ipv6:{network}"
