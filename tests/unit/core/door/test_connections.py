"""Which user made a connection: what the kernel says of sockets, asked in either way."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.networks import has_ipv6  # type: ignore[import-not-found]
from tests.strangers import UID, Stranger, as_root, stranger  # type: ignore[import-not-found]
from vistaflow_services.core.door import connections
from vistaflow_services.core.door.connections import Connection, Netlink, ProcFiles, way_to_ask

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells")

WAYS = (Netlink, ProcFiles)


@pytest.fixture(params=WAYS, ids=lambda each: each.__name__)
def way(request: pytest.FixtureRequest) -> Iterator[Netlink | ProcFiles]:
    way = request.param()
    yield way
    if isinstance(way, Netlink):
        way.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture(scope="module")
def other() -> Iterator[Stranger]:
    with stranger() as process:
        yield process


def connection_of(client_port: int, listener: socket.socket) -> Connection:
    host, port = listener.getsockname()[:2]
    address = socket.inet_pton(listener.family, host)
    return Connection(client=address, client_port=client_port, server=address, server_port=port)


async def test_a_connection_of_this_process_is_its_users(
    way: Netlink | ProcFiles, listener: socket.socket
) -> None:
    with socket.create_connection(listener.getsockname()) as client:
        connection = connection_of(client.getsockname()[1], listener)
        assert await way.uid(connection) == os.geteuid()


@as_root
async def test_a_connection_of_another_user_is_the_other_users(
    way: Netlink | ProcFiles, listener: socket.socket, other: Stranger
) -> None:
    host, port = listener.getsockname()
    connection = connection_of(other.connect(host, port), listener)
    assert await way.uid(connection) == UID


@as_root
async def test_a_socket_of_ipv6_with_an_address_of_ipv4_is_found(
    way: Netlink | ProcFiles, listener: socket.socket, other: Stranger
) -> None:
    host, port = listener.getsockname()
    connection = connection_of(other.connect(host, port, mapped=True), listener)
    assert await way.uid(connection) == UID


@as_root
@pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6 here")
async def test_a_connection_over_ipv6_is_found(way: Netlink | ProcFiles, other: Stranger) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        host, port = listener.getsockname()[:2]
        connection = connection_of(other.connect(host, port), listener)
        assert await way.uid(connection) == UID


async def test_a_connection_that_its_client_closed_is_nobodys(
    way: Netlink | ProcFiles, listener: socket.socket
) -> None:
    # The kernel has it still, and says that it is root's.
    with socket.create_connection(listener.getsockname()) as client:
        connection = connection_of(client.getsockname()[1], listener)
    assert await way.uid(connection) is None


async def test_a_port_where_somebody_listens_is_nobodys_connection(
    way: Netlink | ProcFiles, listener: socket.socket
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert await way.uid(connection_of(listening.getsockname()[1], listener)) is None


@as_root
async def test_a_port_that_another_user_takes_over_is_that_users_from_then_on(
    way: Netlink | ProcFiles, listener: socket.socket, other: Stranger
) -> None:
    host, port = listener.getsockname()
    taken = other.connect(host, port)
    assert await way.uid(connection_of(taken, listener)) == UID
    other.close(taken)
    assert await way.uid(connection_of(taken, listener)) is None
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind((host, taken))
        client.connect((host, port))
        assert await way.uid(connection_of(taken, listener)) == os.geteuid()


async def test_the_kernel_is_asked_for_one_socket_where_it_may_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    way = await way_to_ask()
    assert isinstance(way, Netlink)
    way.close()

    def refused(self: Netlink) -> None:
        raise PermissionError

    monkeypatch.setattr(Netlink, "__init__", refused)
    assert isinstance(await way_to_ask(), ProcFiles)


@pytest.mark.parametrize("answer", [None, 4_000_000_000])
async def test_a_way_that_does_not_tell_the_truth_is_not_taken(
    answer: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def uid(self: object, connection: Connection) -> int | None:
        return answer

    for each in WAYS:
        monkeypatch.setattr(each, "uid", uid)
    assert await way_to_ask() is None


@pytest.mark.parametrize(
    ("mapping", "ambiguous"),
    [
        ("         0          0 4294967295\n", False),
        ("         0       1000          1\n", True),
        ("         0       1000          1\n         1     100000      65536\n", True),
    ],
)
def test_a_user_whose_number_stands_for_others_too_is_ambiguous(
    mapping: str, ambiguous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_text = Path.read_text

    def read(self: Path, *arguments: str) -> str:
        return mapping if self.name == "uid_map" else read_text(self, *arguments)

    monkeypatch.setattr(Path, "read_text", read)
    assert connections.is_ambiguous(65534) is ambiguous
    assert not connections.is_ambiguous(1000)
