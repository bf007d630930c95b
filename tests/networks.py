"""What the network of this machine has."""

from __future__ import annotations

import socket


def has_ipv6() -> bool:
    """Whether something can listen at `::1`."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True
