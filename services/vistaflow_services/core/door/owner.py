"""The user who runs the suite, and the token that all others need (`VISTAFLOW_AUTH=owner`).

A call without a token is the owner's if the kernel reports that the owner's user opened the
connection on this machine (`core/door/connections.py`). Root has no exception: it can read the
token.
If the look-up finds no user, or the system does not support it, the call needs a token.

The look-up is made for every call without a token, and the result is not cached: gRPC exposes only
the client's address and port, which may belong to another user's connection a moment later. The
kernel reports on the connection that has this address and port at the time of the look-up. The call
may have come over an earlier connection: its client sent the call, reset the connection and left
the port to the owner. The kernel removes a connection at once, gRPC notices a little later. So the
door accepts the result only after it has written to the call: the kernel has one connection between
two addresses and ports at a time, a write to a connection that was reset fails, and a call whose
connection failed delivers no request (`Door._whose`).
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import os
import re
import stat
from pathlib import Path

from vistaflow_services.core import files
from vistaflow_services.core.door.connections import Connection, WayToAsk, way_to_ask
from vistaflow_services.core.door.tokens import digest_of, id_of, new_token

logger = logging.getLogger(__name__)

_PEER = re.compile(r"ipv[46]:(?:\[|%5B)?(?P<host>[0-9a-fA-F.:]+)(?:\]|%5D)?:(?P<port>[0-9]+)")

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class Owner:
    """Recognises the calls of the user who runs this service.

    Args:
        token: A token that authenticates its bearer as the owner; empty for none.
    """

    def __init__(self, token: str = "") -> None:
        self._digest = digest_of(token) if token else None
        self._way: WayToAsk | None = None
        self._listeners: list[tuple[IpAddress, int]] = []
        self._has_private_socket = False

    async def prepare(self) -> None:
        """Selects a way to look up connections; logs a warning if there is none."""
        self._way = await way_to_ask()
        if self._way is None:
            logger.warning(
                "this system does not report the owner of a connection: every caller needs a "
                "token, including the user who runs the service"
            )
        else:
            logger.info("owners of connections are looked up by %s", type(self._way).__name__)

    def close(self) -> None:
        """The service has stopped."""
        if self._way is not None:
            self._way.close()
            self._way = None

    def listens(self, host: str, port: int) -> None:
        """The service listens there; the host `unix` is a socket that only its user may open."""
        if host == "unix":
            self._has_private_socket = True
            return
        for text in ("127.0.0.1", "::1") if host == "localhost" else (host,):
            try:
                address = _plain(ipaddress.ip_address(text))
            except ValueError:
                address = None
            # Of a listener at every address connections may differ in the server's address alone,
            # which gRPC does not expose: its callers cannot be distinguished.
            if address is not None and address.is_loopback:
                self._listeners.append((address, port))

    def is_shown(self, text: str) -> bool:
        """Whether a token is the owner's."""
        return self._digest is not None and hmac.compare_digest(self._digest, digest_of(text))

    async def owns_connection(self, peer: str) -> bool:
        """Whether the owner's user has the connection of a peer such as `ipv4:127.0.0.1:41234`."""
        if peer.startswith("unix:"):
            return self._has_private_socket
        match = _PEER.fullmatch(peer)
        if match is None or self._way is None:
            return False
        try:
            client = _plain(ipaddress.ip_address(match["host"]))
        except ValueError:
            return False
        if not client.is_loopback:
            return False
        users = set()
        # A client may have the same port for connections to each of several.
        for server, port in self._listeners:
            if server.version == client.version:
                connection = Connection(
                    client=client.packed,
                    client_port=int(match["port"]),
                    server=server.packed,
                    server_port=port,
                )
                users.add(await self._way.uid(connection))
        return users - {None} == {os.geteuid()}


def make_token(file: Path) -> str:
    """The token that a file has, or a new one in it; the file and its folder are their owner's.

    The token stays the same from one start to the next, as clients may have it for long. A file
    that others could have read or written is replaced.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.parent.chmod(0o700)
    if text := read_token(file):
        return text
    _, text = new_token()
    with (
        files.appearing(file) as temporary,
        # Created with its final mode, so that no other user can open it in between.
        open(
            temporary,
            "x",
            encoding="ascii",
            opener=lambda path, flags: os.open(path, flags, 0o600),
        ) as output,
    ):
        output.write(f"{text}\n")
    return text


def read_token(file: Path) -> str:
    """The token that a file has; empty if there is none, or one that is not only its owner's."""
    try:
        with open(file, opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW)) as opened:
            status = os.fstat(opened.fileno())
            private = status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077
            text = opened.read(200).strip() if private and stat.S_ISREG(status.st_mode) else ""
    except (OSError, ValueError):
        return ""
    return text if id_of(text) else ""


def _plain(address: IpAddress) -> IpAddress:
    """An address of IPv4 that is written as one of IPv6, as itself."""
    return getattr(address, "ipv4_mapped", None) or address
