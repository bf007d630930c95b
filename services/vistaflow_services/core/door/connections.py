"""Looks up in the kernel which user opened a connection on this machine.

Both ends of a loopback connection are sockets of this machine, and Linux records the user of each.
A socket is found by its addresses and ports, and counts only while

* it is ESTABLISHED: the kernel also finds listening and closed sockets, which may belong to others;
* a file refers to it: Linux reports root as the user of a socket closed before all data was sent.

`Netlink` requests one socket from the kernel (inet_diag). If that is not permitted or not built in,
`ProcFiles` reads the tables of all sockets, which takes longer. On systems other than Linux,
and in containers that allow neither, no look-up is possible: `way_to_ask` tries each way on a
connection of its own and returns the first that works.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

logger = logging.getLogger(__name__)

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST: Final = 1
_TCP_ESTABLISHED: Final = 1
_HEADER: Final = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port."""
_QUESTION: Final = struct.Struct("=BBBxI2s2s16s16sI8s")
"""struct inet_diag_req_v2: family, protocol, extensions, states, and the socket's id: its port and
the other's, its address and the other's, interface, cookie."""
_ANSWER: Final = struct.Struct("=BBBB2s2s16s16sI8sIIIII")
"""struct inet_diag_msg: family, state, timer, retransmits, the id, expiry, queues, uid, inode."""
_ANY_STATE: Final = 0xFFFFFFFF
_NO_COOKIE: Final = b"\xff" * 8
_OWN_NAMESPACE: Final = ["0", "0", "4294967295"]
"""/proc/self/uid_map where no uid is hidden."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A TCP connection within this machine; addresses are packed, both of one family."""

    client: bytes
    client_port: int
    server: bytes
    server_port: int

    @property
    def family(self) -> socket.AddressFamily:
        """AF_INET or AF_INET6."""
        return socket.AF_INET if len(self.client) == 4 else socket.AF_INET6


class WayToAsk(Protocol):
    """Looks up the user of the client's end of a connection."""

    async def uid(self, connection: Connection) -> int | None:
        """The user; None if there is no such socket, or not any more."""
        ...

    def close(self) -> None:
        """Asks no more."""
        ...


class Netlink:
    """Requests one socket from the kernel."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
        # The kernel answers before `send` returns.
        self._socket.setblocking(False)
        self._sequence = 0

    def close(self) -> None:
        """Asks no more."""
        self._socket.close()

    async def uid(self, connection: Connection) -> int | None:
        """The user; None if there is no such socket, or not any more."""
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        ports = (
            connection.client_port.to_bytes(2, "big"),
            connection.server_port.to_bytes(2, "big"),
        )
        # The one lookup for IPv4 finds sockets of IPv6 with mapped addresses, too.
        question = _QUESTION.pack(
            connection.family, socket.IPPROTO_TCP, 0, _ANY_STATE,
            *ports, connection.client, connection.server, 0, _NO_COOKIE,
        )  # fmt: skip
        header = _HEADER.pack(
            _HEADER.size + len(question), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, self._sequence, 0
        )
        try:
            self._socket.send(header + question)
            while True:
                message = self._socket.recv(8192)
                _, kind, _, sequence, _ = _HEADER.unpack_from(message)
                if sequence == self._sequence:
                    break
        except OSError as error:
            logger.debug("the owner of a connection was not looked up: %s", error)
            return None
        if kind != _SOCK_DIAG_BY_FAMILY:
            return None  # the error that there is no such socket
        _, state, _, _, *found_ports, _, _, _, _, _, _, _, uid, inode = _ANSWER.unpack_from(
            message, _HEADER.size
        )
        if state != _TCP_ESTABLISHED or not inode or tuple(found_ports) != ports:
            return None
        return int(uid)


class ProcFiles:
    """Reads the tables of all sockets."""

    def close(self) -> None:
        """Asks no more."""

    async def uid(self, connection: Connection) -> int | None:
        """The user; None if there is no such socket, or not any more."""
        # The kernel writes the tables while they are read, which takes time.
        return await asyncio.to_thread(self._read, connection)

    def _read(self, connection: Connection) -> int | None:
        client, server = connection.client, connection.server
        tables = []
        if connection.family == socket.AF_INET:
            tables.append(("tcp", client, server))
            mapped = bytes(10) + b"\xff\xff"
            client, server = mapped + client, mapped + server
        tables.append(("tcp6", client, server))
        for table, one, other in tables:
            row = (
                f": {_hexadecimal(one)}:{connection.client_port:04X} "
                f"{_hexadecimal(other)}:{connection.server_port:04X} {_TCP_ESTABLISHED:02X} "
            )
            with contextlib.suppress(OSError):
                _, separator, rest = Path("/proc/net", table).read_text("ascii").partition(row)
                if separator:
                    # Queues, timer, retransmits, uid, timeout, inode.
                    fields = rest.split(maxsplit=6)
                    return int(fields[3]) if int(fields[5]) else None
        return None


def _hexadecimal(address: bytes) -> str:
    """An address as the tables have it: words of 32 bits in the order of this machine's bytes."""
    words = struct.iter_unpack("=I", address)
    return "".join(f"{word:08X}" for (word,) in words)


async def way_to_ask() -> WayToAsk | None:
    """The first way that returns this process's user for its own connection; None if none does."""
    if sys.platform != "linux" or is_ambiguous(os.geteuid()):
        return None
    with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        client = stack.enter_context(socket.create_connection(listener.getsockname(), timeout=2))
        connection = Connection(
            client=socket.inet_aton("127.0.0.1"),
            client_port=client.getsockname()[1],
            server=socket.inet_aton("127.0.0.1"),
            server_port=listener.getsockname()[1],
        )
        for make in (Netlink, ProcFiles):
            with contextlib.suppress(OSError):
                way: WayToAsk = make()
                if await way.uid(connection) == os.geteuid():
                    return way
                way.close()
    return None


def is_ambiguous(uid: int) -> bool:
    """Whether other users have the same ID here.

    In a user namespace all unmapped users have the ID 65534: a service that runs under this ID
    cannot distinguish its own connections from theirs.
    """
    try:
        if uid != int(Path("/proc/sys/kernel/overflowuid").read_text("ascii")):
            return False
        return Path("/proc/self/uid_map").read_text("ascii").split() != _OWN_NAMESPACE
    except (OSError, ValueError):
        return True
