"""`VISTAFLOW_AUTH=owner`: the user who runs a service needs no token there, all others do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import wrappers_pb2
from google.protobuf.duration_pb2 import Duration
from keys import Keys

import vistaflow
from tests.networks import has_ipv6  # type: ignore[import-not-found]
from tests.strangers import UID, Stranger, as_root, stranger  # type: ignore[import-not-found]
from vistaflow._machine.local import token_file
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from vistaflow.errors import UnauthenticatedError
from vistaflow_services.core.door.interceptor import Door, DoorSettings
from vistaflow_services.core.door.owner import make_token
from vistaflow_services.core.server.shell import Server, make_server
from vistaflow_services.registry.__main__ import Registry

SERVICE = pb.DESCRIPTOR.services_by_name["RegistryService"].full_name
GET_KIT = f"/{SERVICE}/GetKit"
needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6 here")
Text = wrappers_pb2.StringValue
OPTIONS = [("grpc.use_local_subchannel_pool", 1)]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VISTAFLOW_HOME", str(tmp_path))
    monkeypatch.setenv("VISTAFLOW_AUTH", "owner")
    return tmp_path


@pytest.fixture
async def owned(database: str, serve: Any, home: Path) -> AsyncIterator[Registry]:
    """A registry whose home has a token."""
    make_token(token_file(home))
    async with serve(database) as registry:
        yield registry


@pytest.fixture(scope="module")
def other() -> Iterator[Stranger]:
    """Another user."""
    with stranger() as process:
        yield process


def as_other(other: Stranger, *arguments: Any, **named: Any) -> Any:
    """What becomes of another user's call, while this loop serves it."""
    return asyncio.to_thread(other.call, *arguments, **named)


async def test_the_owner_calls_whatever_it_is_without_a_token(owned: Registry) -> None:
    async with grpc.aio.insecure_channel(owned.address, options=OPTIONS) as channel:
        stub: Any = RegistryServiceStub(channel)
        created = await stub.CreateKit(
            pb.CreateKitRequest(name="mine", jobs=[pb.NewJob(name="work", job_type=2)])
        )
        watch = stub.WatchStates(pb.WatchStatesRequest(progress_interval=Duration(seconds=1)))
        assert await watch.read() is not grpc.aio.EOF
        watch.cancel()
        stream = stub.StreamStates()
        await stream.write(pb.StreamStatesRequest())
        assert (await stream.read()).HasField("credit")
        stream.cancel()
        canceled = await stub.CancelKit(pb.CancelKitRequest(kit_id=created.kit.kit_id))
        assert canceled.kit.kit_id == created.kit.kit_id
        assert (await stub.GetServerInfo(pb.GetServerInfoRequest())).limits["auth"] == "owner"


@as_root
@pytest.mark.parametrize(
    ("name", "stream"),
    [
        ("ListKits", ""),
        ("CreateKit", ""),
        ("CancelKit", ""),
        ("CreateToken", ""),
        ("WatchStates", "server"),
        ("StreamStates", "both"),
    ],
)
async def test_another_user_needs_a_token(
    name: str, stream: str, owned: Registry, home: Path, other: Stranger
) -> None:
    method = f"/{SERVICE}/{name}"
    code, message = await as_other(other, owned.address, method, stream=stream)
    assert code == "UNAUTHENTICATED"
    assert "vistaflow token create" in message
    assert str(home) not in message
    token = token_file(home).read_text().strip()
    code, _ = await as_other(other, owned.address, method, stream=stream, token=token)
    assert code in {"OK", "INVALID_ARGUMENT"}


@as_root
async def test_a_token_of_another_user_says_what_that_user_may_do(
    owned: Registry, other: Stranger
) -> None:
    viewer = await Keys(owned).make("VIEWER", "optics")
    read, write = f"/{SERVICE}/ListKits", f"/{SERVICE}/CreateKit"
    assert (await as_other(other, owned.address, read, token=viewer))[0] == "OK"
    assert (await as_other(other, owned.address, write, token=viewer))[0] == "PERMISSION_DENIED"


async def test_a_token_that_the_owner_shows_counts_and_a_bad_one_is_refused(
    owned: Registry,
) -> None:
    viewer = await Keys(owned).make("VIEWER", "optics")
    for token, error in ((viewer, vistaflow.PermissionDeniedError), ("x", UnauthenticatedError)):
        async with vistaflow.aio.connect(owned.address, token=token) as client:
            with pytest.raises(error):
                await client.create_kit("a", ["DOE"])


@as_root
async def test_a_port_that_had_the_owners_connection_does_not_let_another_user_in(
    other: Stranger,
) -> None:
    async with serving() as (server, _):
        channel = grpc.aio.insecure_channel(server.address, options=OPTIONS)
        peer = Text.FromString(await channel.unary_unary(GET_KIT)(b"")).value
        await channel.close()
        port = int(peer.rpartition(":")[2])
        host, at = server.address.rsplit(":", 1)
        assert await asyncio.to_thread(other.connect, host, int(at), own_port=port) == port
        assert not await server.door.owner.owns_connection(peer)  # type: ignore[union-attr]


@as_root
async def test_a_call_of_another_user_is_not_the_owners_who_takes_over_its_port() -> None:
    judged: list[bool] = []
    async with serving() as (server, served):
        owner = server.door.owner
        assert owner is not None
        owns_connection = owner.owns_connection

        async def judge(peer: str) -> bool:
            judged.append(await owns_connection(peer))
            return judged[-1]

        owner.owns_connection = judge  # type: ignore[method-assign]
        port = server.address.rpartition(":")[2]
        for _ in range(40):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.integration.door.taking_over",
                port, GET_KIT, str(UID), "300",
                cwd=Path(__file__).parents[3],
            )  # fmt: skip
            assert await process.wait() == 0
            assert served == []
            # How often the owner has the port by the time of asking depends on the machine.
            if sum(judged) > 20:
                break
        assert any(judged)


@pytest.mark.parametrize(
    "listen",
    [
        "127.0.0.1:0",
        pytest.param("[::1]:0", marks=needs_ipv6),
        "localhost:0",
        "unix:{}/socket",
    ],
)
async def test_the_owner_enters_wherever_the_service_listens_here(
    listen: str, tmp_path: Path
) -> None:
    async with serving(listen.format(tmp_path)) as (server, served):
        async with grpc.aio.insecure_channel(server.address, options=OPTIONS) as channel:
            await channel.unary_unary(GET_KIT)(b"")
        assert len(served) == 1


@as_root
async def test_only_the_owner_may_open_the_services_socket(other: Stranger) -> None:
    folder = Path("/tmp") / f"vistaflow-owner-{os.getpid()}"
    folder.mkdir(mode=0o755)
    try:
        async with serving(f"unix:{folder}/socket") as (server, served):
            assert stat.S_IMODE((folder / "socket").stat().st_mode) == 0o600
            code, _ = await as_other(other, server.address, GET_KIT)
            assert code == "UNAVAILABLE"
            assert served == []
    finally:
        with contextlib.suppress(FileNotFoundError):
            (folder / "socket").unlink()
        folder.rmdir()


async def test_callers_of_a_service_that_listens_everywhere_need_a_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Another user's connection to another address of this machine may have the same port there.
    monkeypatch.setenv("VISTAFLOW_ALLOW_INSECURE", "1")
    async with serving("0.0.0.0:0") as (server, served):
        address = server.address.replace("0.0.0.0", "127.0.0.1")
        async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary(GET_KIT)(b"")
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert served == []


async def test_where_the_kernel_does_not_tell_the_owner_needs_the_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    token = "vf1." + "0" * 32 + "." + "a" * 43
    async with serving(token=token) as (server, served):
        async with grpc.aio.insecure_channel(server.address, options=OPTIONS) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary(GET_KIT)(b"")
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            metadata = (("authorization", f"Bearer {token}"),)
            await channel.unary_unary(GET_KIT)(b"", metadata=metadata)
        assert len(served) == 1


class Serving(Server):
    """A server that knows where it listens."""

    address: str


@contextlib.asynccontextmanager
async def serving(
    listen: str = "127.0.0.1:0", token: str = ""
) -> AsyncIterator[tuple[Serving, list[str]]]:
    """A service that tells each caller its peer, and the peers that it served."""
    served: list[str] = []

    async def who(request: Any, context: Any) -> Any:
        served.append(context.peer())
        return Text(value=context.peer())

    door = Door(DoorSettings(required=True, owner=True, owner_token=token))
    server: Any = make_server(SERVICE, door=door)
    handler = grpc.unary_unary_rpc_method_handler(who, None, Text.SerializeToString)
    handlers = {"GetKit": handler}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    server.address = server.bind(listen)
    await server.start()
    try:
        yield server, served
    finally:
        await server.stop(0)
