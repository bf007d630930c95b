"""Ports to listen on later, which nobody is given meanwhile."""

from __future__ import annotations

import random
import socket
from pathlib import Path

LOWEST = 16_000
EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A port of this machine where nobody listens.

    It lies below those that the system gives to connections: one of those, free now, may be the
    near end of somebody's connection by the time that it is listened on.
    """
    highest = int(EPHEMERAL.read_text().split()[0]) if EPHEMERAL.exists() else 32_768
    for port in random.SystemRandom().sample(range(LOWEST, max(highest, LOWEST + 1000)), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")
