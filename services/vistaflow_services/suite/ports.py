"""Ports for services: free now, and kept by the system for no connection."""

from __future__ import annotations

import random
import socket
from pathlib import Path
from typing import Final

LOWEST: Final = 16_000
EPHEMERAL: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
TRIES: Final = 100


def free_port() -> int:
    """A loopback port that nobody listens on now.

    It lies below the ports that the system gives to connections. One of those, free now, may be
    the near end of a connection by the time that a service listens there, or while a
    service that died is started again.

    Raises:
        OSError: None of those that were tried is free.
    """
    highest = int(EPHEMERAL.read_text("ascii").split()[0]) if EPHEMERAL.exists() else 32_768
    for port in random.SystemRandom().sample(range(LOWEST, max(highest, LOWEST + 1000)), TRIES):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"none of {TRIES} loopback ports is free")
