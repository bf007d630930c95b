"""How many calls each of many may make: a bucket each, that fills all the time."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import OrderedDict

KEPT = 10_000
"""Buckets remembered; whoever was not heard of for longest begins with a full one again."""


class Buckets:
    """What each has left.

    Args:
        rate: Calls a second that fill a bucket; 0 for any number.
        most: What a full bucket holds.
    """

    def __init__(self, rate: float, most: float) -> None:
        self.rate = rate
        self._most = most
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, who: str) -> float:
        """Takes one call out of a bucket; if there is none, the seconds until there is, else 0."""
        if not self.rate:
            return 0.0
        now = asyncio.get_running_loop().time()
        left, at = self._left.get(who, (self._most, now))
        left = min(self._most, left + (now - at) * self.rate)
        if left < 1:
            return (1 - left) / self.rate
        self._left[who] = (left - 1, now)
        self._left.move_to_end(who)
        if len(self._left) > KEPT:
            self._left.popitem(last=False)
        return 0.0

    def give_back(self, who: str) -> None:
        """Puts back what a call took that is not to count."""
        if who in self._left:
            left, at = self._left[who]
            self._left[who] = (left + 1, at)


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
